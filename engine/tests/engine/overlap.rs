//! Two steps in flight: a step is planned and launched while the one before it is computed.

use engine::fake::Place;
use engine::handle::{End, Generate};
use engine::request::{Finish, Token};
use engine::sampling::Sampling;

use crate::bench::{AHEAD, Bench, Heard, LIMITS, device, ids, prompt, read, request, soon, until};

/// Groups share a prefix; lengths differ.
fn text(number: u32) -> Vec<Token> {
    let mut text = prompt(number % 7, 20);
    text.extend(prompt(number, number % 13));
    text
}

/// What request `number` gives alone, and how it ends: every third one by a token in its middle.
fn alone(bench: &Bench, number: u32) -> (Vec<Token>, Finish) {
    let output_max = 1 + number as usize % 27;
    let mut tokens = bench.device.expected_tokens(&text(number), output_max);
    if number.is_multiple_of(3) {
        tokens.truncate(1 + output_max / 2);
        (tokens, Finish::Stop)
    } else {
        (tokens, Finish::Length)
    }
}

fn asked(bench: &Bench, number: u32) -> Generate {
    let (tokens, finish) = alone(bench, number);
    let stop_tokens = match finish {
        Finish::Stop => tokens.last().copied().into_iter().collect(),
        _ => Vec::new(),
    };
    Generate {
        sampling: Sampling {
            stop_tokens,
            ..Sampling::default()
        },
        ..request(&text(number), 1 + number % 27)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_computed_ahead_changes_no_text() {
    // 40 blocks of 4 for up to 16 sequences of up to 60 tokens: many are preempted.
    let bench = Bench::on(device(40), AHEAD).await;
    let requests: Vec<_> = (0..100).map(|number| asked(&bench, number)).collect();
    let streams = bench.generate_held(requests).await;
    bench.device.release();
    let mut readers = Vec::new();
    for (number, mut tokens) in (0..).zip(streams) {
        let (expected, finish) = alone(&bench, number);
        readers.push(tokio::spawn(async move {
            if number % 10 == 9 {
                // Leaves after its first token, or at its end if that is earlier.
                while soon(tokens.next())
                    .await
                    .is_some_and(|p| p.tokens.is_empty())
                {}
                return;
            }
            let heard = Heard {
                starts: 1,
                tokens: expected,
                end: Some(End::Finish(finish)),
            };
            assert_eq!(read(&mut tokens).await, heard, "request {number}");
        }));
    }
    for reader in readers {
        soon(reader).await.unwrap();
    }
    bench.quiet().await;
    assert_eq!(bench.device.in_flight_most(), 2);
    let stats = bench.handle.stats();
    assert!(stats.preemptions > 0, "the pool was to be too small");
    assert!(stats.prefix_hit_tokens > 0, "prefixes were to be shared");
}

#[tokio::test]
async fn one_step_is_in_flight_where_no_more_are_allowed() {
    let bench = Bench::serving(LIMITS).await;
    read(&mut bench.generate(request(&prompt(1, 10), 20)).await).await;
    assert_eq!(bench.device.in_flight_most(), 1);
}

#[tokio::test]
async fn who_left_is_remembered_until_the_last_step_that_names_him_has_ended() {
    let bench = Bench::serving(AHEAD).await;
    let texts = [prompt(1, 10), prompt(2, 10)];
    let requests = texts.iter().map(|text| request(text, 50));
    let mut streams = bench.generate_held(requests).await;
    bench.allow(3).await;
    let (gone, mut kept) = (streams.pop().unwrap(), streams.pop().unwrap());
    drop(gone);
    // The step that is held names both. The one behind it was launched before the reader left.
    bench.allow(1).await;
    until(|| bench.handle.stats().running == 1).await;
    assert_eq!(bench.device.admitted(), 2, "a step in flight names him");
    bench.allow(1).await;
    until(|| bench.device.admitted() == 1).await;
    bench.device.release();
    let heard = read(&mut kept).await;
    assert_eq!(heard.tokens, bench.device.expected_tokens(&texts[0], 50));
    bench.quiet().await;
}

#[tokio::test]
async fn a_poisonous_request_is_found_though_the_newest_step_does_not_name_it() {
    let poison = Token(5_000);
    let bench = Bench::patient_on(device(256), AHEAD).await;
    bench.device.poison(poison, Place::Wait);
    let kept = prompt(1, 10);
    // It wants one token, so only the older of two steps in flight computes it.
    let requests = [request(&kept, 20), request(&[poison; 10], 1)];
    let mut streams = bench.generate_held(requests).await;
    bench.device.release();
    let heard = read(&mut streams[1]).await;
    assert_eq!((heard.tokens.len(), heard.end), (0, Some(End::EngineDown)));
    let heard = read(&mut streams[0]).await;
    assert_eq!(heard.tokens, bench.device.expected_tokens(&kept, 20));
    bench.quiet().await;
}

#[tokio::test]
async fn tokens_are_heard_while_the_next_step_is_computed() {
    let bench = Bench::serving(AHEAD).await;
    bench.device.hold();
    let text = prompt(1, 10);
    let mut tokens = bench.generate(request(&text, 50)).await;
    bench.launched(1).await;
    let mut heard = Vec::new();
    for step in 1..=4 {
        bench.allow(1).await;
        while heard.len() < step {
            heard.extend(ids(&soon(tokens.next()).await.unwrap().tokens));
        }
        assert_eq!(heard.len(), step, "a token comes with its step");
    }
    assert_eq!(heard, bench.device.expected_tokens(&text, 4));
    bench.device.release();
    drop(tokens);
    bench.quiet().await;
}
