//! Which pages of other sites may ask (the Fetch standard's CORS protocol).
