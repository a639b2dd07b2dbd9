//! Streams one answer and prints one embedding: `cargo run -p paternoster-client --example stream`.
#![expect(clippy::print_stdout, reason = "an example prints")]

use paternoster_client::{Session, prompt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = std::env::args().nth(1);
    let text = text.unwrap_or_else(|| "What is a paternoster?".to_owned());
    let session = Session::connect("http://127.0.0.1:50051").await?;
    let mut generation = session.generate(prompt(&text, 64)).await?;
    while let Some(piece) = generation.text().await? {
        print!("{piece}");
    }
    println!();
    for vector in session.embed([text]).await? {
        println!("{:.3?} ...", &vector[..4.min(vector.len())]);
    }
    Ok(())
}
