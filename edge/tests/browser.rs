//! The page in a real browser, through edge: what a person does with it, and what they see.
//!
//! Runs where a Chromium is in PATH and says so where none is; with `EDGE_BROWSER_REQUIRED=1`
//! there must be one. The screenshots stay in target/browser/.

#![cfg(feature = "demo")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use edge::demo::{Addresses, Demo};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Nothing that the browser is asked takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

const NAMES: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

fn find_chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let places = NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    places.into_iter().find(|place| place.is_file())
}

/// target/browser/
fn shots() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .unwrap()
        .join("browser")
}

/// A Chromium of this test's own; it ends with this value, also when the test fails.
struct Chromium {
    child: Child,
    profile: PathBuf,
}

impl Chromium {
    /// Starts it and finds out where it listens for `DevTools`.
    fn start(program: &Path) -> (Self, String) {
        let profile = shots().join(format!("profile-{}", std::process::id()));
        fs::create_dir_all(&profile).unwrap();
        let child = Command::new(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut chromium = Self { child, profile };
        let stderr = chromium.child.stderr.take().unwrap();
        let (told, address) = mpsc::channel();
        std::thread::spawn(move || {
            // Read to its end: a full pipe would halt the browser.
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("DevTools listening on ") {
                    let _ = told.send(address.trim().to_owned());
                }
            }
        });
        let address = address.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            panic!("Chromium does not say where it listens");
        });
        (chromium, address)
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.profile);
    }
}

/// One page, driven over the `DevTools` protocol.
struct Page {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: Option<String>,
    calls: u64,
    /// What the page complained of.
    errors: Vec<String>,
}

impl Page {
    async fn open(devtools: &str) -> Self {
        let connecting = timeout(PATIENCE, tokio_tungstenite::connect_async(devtools));
        let (socket, _) = connecting.await.unwrap().unwrap();
        let mut page = Self {
            socket,
            session: None,
            calls: 0,
            errors: Vec::new(),
        };
        let target = page
            .call("Target.createTarget", json!({ "url": "about:blank" }))
            .await;
        let attached = page
            .call(
                "Target.attachToTarget",
                json!({ "targetId": target["targetId"], "flatten": true }),
            )
            .await;
        page.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), json!({})).await;
        }
        page
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let mut call = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            call["sessionId"] = json!(session);
        }
        let answer = timeout(PATIENCE, async {
            let call = Message::text(call.to_string());
            self.socket.send(call).await.unwrap();
            loop {
                let message = self.socket.next().await.unwrap().unwrap();
                let Ok(text) = message.to_text() else {
                    continue;
                };
                let Ok(message) = serde_json::from_str::<Value>(text) else {
                    continue;
                };
                if message["id"] == id {
                    return message;
                }
                self.note(&message);
            }
        });
        let mut answer = answer
            .await
            .unwrap_or_else(|_| panic!("{method} is not answered"));
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].take()
    }

    /// Keeps what is an error.
    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        let error = match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" | "Network.loadingFailed" | "Network.webSocketFrameError" => {
                true
            }
            "Runtime.consoleAPICalled" => params["type"] == "error" || params["type"] == "assert",
            "Log.entryAdded" => params["entry"]["level"] == "error",
            "Network.responseReceived" => params["response"]["status"].as_u64() >= Some(400),
            _ => false,
        };
        if error {
            self.errors.push(event.to_string());
        }
    }

    /// What this JavaScript is worth.
    async fn worth(&mut self, expression: &str) -> Value {
        let params =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", params).await;
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].take()
    }

    async fn text(&mut self, selector: &str) -> String {
        let selector = json!(selector);
        let text = self
            .worth(&format!("document.querySelector({selector})?.textContent"))
            .await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until this JavaScript is true.
    async fn wait_for(&mut self, expression: &str) {
        let began = Instant::now();
        while self.worth(expression).await != true {
            let state = "document.querySelector('main')?.innerText ?? document.body.innerText";
            if began.elapsed() > Duration::from_secs(10) {
                let seen = self.worth(state).await;
                panic!(
                    "never true: {expression}\nthe page: {seen}\nerrors: {:?}",
                    self.errors
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Clicks where a person would: in the middle of what can be seen of it.
    async fn click(&mut self, selector: &str) {
        let selector = json!(selector);
        let place = self
            .worth(&format!(
                "(() => {{
                    const element = document.querySelector({selector});
                    element.scrollIntoView({{ block: 'center' }});
                    const box = element.getBoundingClientRect();
                    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
                    return {{ x, y, free: element.contains(document.elementFromPoint(x, y)), on: !element.disabled }};
                }})()"
            ))
            .await;
        assert!(
            place["free"] == true && place["on"] == true,
            "{selector} cannot be clicked: {place}"
        );
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({
                "type": kind, "x": place["x"], "y": place["y"], "button": "left", "clickCount": 1
            });
            self.call("Input.dispatchMouseEvent", params).await;
        }
    }

    async fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    async fn press_enter(&mut self) {
        for kind in ["keyDown", "keyUp"] {
            let params = json!({
                "type": kind, "key": "Enter", "code": "Enter", "text": "\r",
                "windowsVirtualKeyCode": 13
            });
            self.call("Input.dispatchKeyEvent", params).await;
        }
    }

    async fn resize(&mut self, width: u32, height: u32, mobile: bool) {
        let params = json!({
            "width": width, "height": height, "deviceScaleFactor": 2, "mobile": mobile
        });
        self.call("Emulation.setDeviceMetricsOverride", params)
            .await;
    }

    async fn screenshot(&mut self, name: &str) {
        let shot = self
            .call("Page.captureScreenshot", json!({ "format": "png" }))
            .await;
        let image = base64(shot["data"].as_str().unwrap());
        assert!(
            image.starts_with(b"\x89PNG") && image.len() > 5_000,
            "{name} shows nothing"
        );
        fs::write(shots().join(name), image).unwrap();
    }

    /// Nothing stands out to the side.
    async fn fits_its_width(&mut self) {
        self.wait_for(
            "document.documentElement.scrollWidth <= document.documentElement.clientWidth",
        )
        .await;
    }

    fn has_no_errors(&self) {
        assert!(self.errors.is_empty(), "{}", self.errors.join("\n"));
    }
}

fn base64(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::with_capacity(text.len());
    let (mut held, mut bits) = (0usize, 0);
    for letter in text.bytes().filter(|&letter| letter != b'=') {
        let value = LETTERS.iter().position(|own| *own == letter).unwrap();
        held = (held << 6 | value) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(held >> bits & 0xff).unwrap());
        }
    }
    bytes
}

async fn demo() -> Demo {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let addresses = Addresses {
        listen: free,
        admin: free,
        echo: free,
    };
    Demo::start(addresses, None).await.unwrap()
}

/// The newest echo, and how long it took.
const ECHO: &str = "#log li.echo .text";
const ROUND_TRIP: &str = "#log li.echo .rtt";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_sends_a_message_and_sees_it_come_back() {
    let Some(program) = find_chromium() else {
        let required = std::env::var_os("EDGE_BROWSER_REQUIRED").is_some_and(|value| value == "1");
        assert!(!required, "no Chromium in PATH: none of {NAMES:?}");
        println!("skipped: no Chromium in PATH");
        return;
    };
    fs::create_dir_all(shots()).unwrap();
    let demo = demo().await;
    let page_at = format!("http://{}/", demo.address());
    let (chromium, devtools) = Chromium::start(&program);
    let mut page = Page::open(&devtools).await;

    page.resize(1_000, 900, false).await;
    page.call("Page.navigate", json!({ "url": page_at })).await;
    page.wait_for("document.readyState === 'complete' && document.querySelector('#state')?.textContent === 'closed'")
        .await;
    let through = page
        .worth("fetch('/').then((answer) => answer.headers.get('via'))")
        .await;
    assert!(
        through.as_str().is_some_and(|via| via.contains("edge")),
        "{through}"
    );

    page.click("#connect").await;
    page.wait_for("document.querySelector('#state').dataset.is === 'open'")
        .await;
    page.click("#message").await;
    page.write("hello, edge").await;
    page.click("#send").await;
    page.wait_for("document.querySelectorAll('#log li.echo').length === 1")
        .await;
    assert_eq!(page.text(ECHO).await, "hello, edge");
    let took = page.text(ROUND_TRIP).await;
    let milliseconds = took
        .strip_suffix(" ms")
        .and_then(|took| took.parse::<f64>().ok());
    assert!(milliseconds.is_some_and(|ms| ms < 10_000.0), "{took}");

    // The field keeps the focus: the next message needs no mouse.
    page.write("Grüße aus <b>München</b> 🌍").await;
    page.press_enter().await;
    page.wait_for("document.querySelectorAll('#log li.echo').length === 2")
        .await;
    assert_eq!(page.text(ECHO).await, "Grüße aus <b>München</b> 🌍");
    page.fits_its_width().await;
    page.screenshot("page.png").await;

    page.resize(360, 740, true).await;
    page.write(&"a-long-word-without-a-space-".repeat(6)).await;
    page.press_enter().await;
    page.wait_for("document.querySelectorAll('#log li.echo').length === 3")
        .await;
    page.fits_its_width().await;
    page.screenshot("page-narrow.png").await;

    page.click("#disconnect").await;
    page.wait_for("document.querySelector('#state').textContent === 'closed'")
        .await;
    assert_eq!(page.text("#code").await, "1000");
    assert_eq!(
        page.worth("document.querySelector('#send').disabled").await,
        true
    );
    page.click("#connect").await;
    page.wait_for("document.querySelector('#state').dataset.is === 'open'")
        .await;
    page.has_no_errors();

    // edge and echo end while the page is connected: it is told so, and means to come back.
    timeout(PATIENCE, demo.end(true)).await.unwrap();
    page.wait_for("document.querySelector('#state').dataset.is === 'waiting'")
        .await;
    assert_eq!(page.text("#code").await, "1012");
    page.has_no_errors();
    drop(chromium);
}

#[test]
fn base64_is_read() {
    assert_eq!(base64("aGVsbG8="), b"hello");
    assert_eq!(base64("iVBORw0KGgo="), b"\x89PNG\r\n\x1a\n");
}
