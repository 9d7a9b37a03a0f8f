use std::time::SystemTime;

use http::StatusCode;

use super::*;
use crate::cache::{self, Asked, Policy};

const PATIENCE: Duration = Duration::from_secs(1);

fn head(kept: bool) -> Outcome {
    let policy = Policy::new(Some(Duration::from_secs(60)));
    let (none, now) = (HeaderMap::new(), SystemTime::now());
    let lifetime = cache::keep(&policy, &Asked::default(), StatusCode::OK, &none, now, now);
    let kept = match kept {
        true => Ok((lifetime.unwrap(), Selection::of(&[], &none))),
        false => Err(Reason::CacheControl),
    };
    Outcome::Answer(Arc::new(Head {
        head: ResponseHeader::build(200, None).unwrap(),
        kept,
        length: None,
    }))
}

fn chunk(size: usize) -> Bytes {
    Bytes::from(vec![7; size])
}

async fn all(mut reader: Reader) -> Result<usize, Refusal> {
    let mut read = 0;
    while let Some(chunk) = reader.next().await? {
        read += chunk.len();
    }
    Ok(read)
}

fn board(flights: &Flights, now: Instant) -> Boarding {
    board_at(flights, now, 0, None)
}

fn board_at(flights: &Flights, now: Instant, born: u64, expected: Option<&Selection>) -> Boarding {
    flights.board(&Boarder {
        key: &Arc::from(&b"key"[..]),
        request: &HeaderMap::new(),
        expected,
        now,
        patience: PATIENCE,
        born,
        passed: &|begun| begun < born,
        kept: &|| false,
    })
}

#[test]
fn what_was_kept_meanwhile_is_not_fetched_again() {
    let (flights, now) = (Flights::new(), Instant::now());
    let key = Arc::from(&b"key"[..]);
    let fields = HeaderMap::new();
    let mut boarder = Boarder {
        key: &key,
        request: &fields,
        expected: None,
        now,
        patience: PATIENCE,
        born: 0,
        passed: &|_| false,
        kept: &|| true,
    };
    assert!(matches!(flights.board(&boarder), Boarding::Kept));
    boarder.kept = &|| false;
    let Boarding::Lead(_flight, _reader) = flights.board(&boarder) else {
        panic!("nobody fetches it yet")
    };
    boarder.kept = &|| true;
    let joined = flights.board(&boarder);
    assert!(matches!(joined, Boarding::Join(_)), "it may be newer");
}

#[tokio::test]
async fn whoever_comes_late_to_what_is_kept_reads_all_of_it() {
    let (flights, now) = (Flights::new(), Instant::now());
    let Boarding::Lead(flight, first) = board(&flights, now) else {
        panic!("nobody fetches it yet")
    };
    flight.decide(head(true));
    assert!(flight.push(chunk(300_000)).await, "it is kept whole");
    let Boarding::Join(late) = board(&flights, now + 2 * PATIENCE) else {
        panic!("it is on its way")
    };
    assert!(flight.push(chunk(5)).await);
    flight.end(Ok(()));
    assert_eq!(all(first).await, Ok(300_005));
    assert_eq!(all(late).await, Ok(300_005));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_kept_waits_for_its_slowest_reader_and_is_held_no_longer() {
    let (flight, mut reader) = Flight::begin(Instant::now(), 0, None);
    flight.decide(head(false));
    assert!(flight.push(chunk(WINDOW)).await);
    let pushing = tokio::spawn({
        let flight = flight.clone();
        async move { flight.push(chunk(1)).await }
    });
    tokio::time::sleep(PATIENCE).await;
    assert!(!pushing.is_finished(), "the window is full");
    assert_eq!(reader.next().await.unwrap().unwrap().len(), WINDOW);
    assert!(pushing.await.unwrap());
    assert_eq!(flight.state.lock().bytes, 1);
}

#[tokio::test]
async fn a_fetch_that_nobody_reads_and_nobody_keeps_is_given_up() {
    let (flight, reader) = Flight::begin(Instant::now(), 0, None);
    flight.decide(head(false));
    drop(reader);
    assert!(!flight.push(chunk(1)).await);
    let (flight, reader) = Flight::begin(Instant::now(), 0, None);
    flight.decide(head(true));
    drop(reader);
    assert!(flight.push(chunk(1)).await, "it is kept for others");
}

#[tokio::test]
async fn a_body_that_outgrows_its_room_goes_on_through_the_window() {
    let (flights, now) = (Flights::new(), Instant::now());
    let Boarding::Lead(flight, reader) = board(&flights, now) else {
        panic!("nobody fetches it yet")
    };
    flight.decide(head(true));
    assert!(flight.push(chunk(10)).await);
    flight.let_go();
    assert!(
        matches!(board(&flights, now), Boarding::Lead(..)),
        "nobody joins what is thrown away as it is read"
    );
    assert!(flight.push(chunk(20)).await);
    flight.end(Ok(()));
    assert_eq!(all(reader).await, Ok(30));
}

#[tokio::test]
async fn a_body_that_was_cut_off_never_looks_complete() {
    let (flight, reader) = Flight::begin(Instant::now(), 0, None);
    flight.decide(head(true));
    assert!(flight.push(chunk(10)).await);
    flight.end(Err(Refusal::UpstreamClosed));
    assert_eq!(all(reader).await, Err(Refusal::UpstreamClosed));
}

#[tokio::test]
async fn a_fetch_that_ends_without_an_outcome_has_failed() {
    let (flight, mut reader) = Flight::begin(Instant::now(), 0, None);
    flight.interim(ResponseHeader::build(103, None).unwrap());
    flight.end(Err(Refusal::Internal));
    assert!(matches!(reader.news().await, News::Interim(_)));
    assert!(matches!(
        reader.news().await,
        News::Outcome(Outcome::Failed(Refusal::Internal))
    ));
}

#[tokio::test]
async fn nobody_waits_longer_than_patience_for_what_another_fetches() {
    let (flights, now) = (Flights::new(), Instant::now());
    let Boarding::Lead(old, _reader) = board(&flights, now) else {
        panic!("nobody fetches it yet")
    };
    assert!(matches!(board(&flights, now), Boarding::Join(_)));
    let Boarding::Lead(new, _reader) = board(&flights, now + PATIENCE) else {
        panic!("that one takes too long")
    };
    let key = Arc::from(&b"key"[..]);
    flights.remove(&key, &new);
    flights.remove(&key, &old);
    flights.remove(&key, &old);
    assert!(matches!(board(&flights, now), Boarding::Lead(..)));
}

#[test]
fn what_could_not_be_kept_is_remembered_for_a_while() {
    let (flights, now) = (Flights::new(), Instant::now());
    assert!(!flights.is_alone(b"key", now));
    flights.learn(b"key", false, now);
    assert!(flights.is_alone(b"key", now) && !flights.is_alone(b"other", now));
    assert!(!flights.is_alone(b"key", now + Duration::from_secs(3_600)));
    flights.learn(b"key", true, now);
    assert!(!flights.is_alone(b"key", now));
}

#[test]
fn nobody_joins_what_a_purge_has_passed() {
    let (flights, now) = (Flights::new(), Instant::now());
    let Boarding::Lead(_flight, _reader) = board_at(&flights, now, 0, None) else {
        panic!("nobody fetches it yet")
    };
    assert!(matches!(
        board_at(&flights, now, 0, None),
        Boarding::Join(_)
    ));
    assert!(matches!(
        board_at(&flights, now, 1, None),
        Boarding::Lead(..)
    ));
}

#[test]
fn nobody_waits_for_another_variant() {
    let (flights, now) = (Flights::new(), Instant::now());
    let name = http::header::ACCEPT_LANGUAGE;
    let variant = |language: &str| {
        let mut request = HeaderMap::new();
        request.insert(&name, language.parse().unwrap());
        Selection::of(std::slice::from_ref(&name), &request)
    };
    let mut leads = Vec::new();
    for language in ["en", "de"] {
        let boarding = board_at(&flights, now, 0, Some(&variant(language)));
        assert!(matches!(boarding, Boarding::Lead(..)), "{language}");
        leads.push(boarding);
    }
    for language in ["de", "en"] {
        let boarding = board_at(&flights, now, 0, Some(&variant(language)));
        assert!(matches!(boarding, Boarding::Join(_)), "{language}");
    }
}
