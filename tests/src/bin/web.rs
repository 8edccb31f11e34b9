//! A server of HTTP and websockets for containers, linked statically as there are no libraries: this project's own,
//! before the fake. `web ADDRESS:PORT`; says a line when it listens.

#![forbid(unsafe_code)]

use std::{error::Error, future::pending, sync::Arc};

use backend_fake::FakeBackend;
use garden_server::{Config, Listener, serve};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: web ADDRESS:PORT")?;
    // Within a network of a test's own: whoever reaches it may use it.
    let listener = Listener::insecure_tcp(address.parse()?).await?;
    println!("listening");
    serve(vec![listener], Arc::new(FakeBackend::new()), Config::default(), pending()).await?;
    Ok(())
}
