//! What a stream carries.

use engine::handle::{End, Generate, Refusal};
use engine::limits::Limits;
use engine::request::{Finish, Reject, Token};
use engine::sampling::Sampling;

use crate::bench::{Bench, Heard, LIMITS, at_once, device, ids, prompt, read, request, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_at_once_hear_what_each_would_hear_alone() {
    // 40 blocks of 4 for up to 16 sequences of up to 60 tokens: many are preempted.
    let bench = Bench::on(device(40), LIMITS).await;
    let asked = |number: u32| {
        // Groups share a prefix; lengths differ.
        let mut text = prompt(number % 7, 20);
        text.extend(prompt(number, number % 13));
        (text, 1 + number % 27)
    };
    let requests = (0..100).map(asked).map(|(text, max)| request(&text, max));
    let streams = bench.generate_held(requests).await;
    bench.device.release();
    let mut readers = Vec::new();
    for (number, mut tokens) in (0..).zip(streams) {
        let (text, output_max) = asked(number);
        let expected = bench.device.expected_tokens(&text, output_max as usize);
        readers.push(tokio::spawn(async move {
            let heard = read(&mut tokens).await;
            (heard, expected)
        }));
    }
    for reader in readers {
        let (heard, expected) = soon(reader).await.unwrap();
        assert_eq!(
            heard,
            Heard {
                starts: 1,
                tokens: expected,
                end: Some(End::Finish(Finish::Length)),
            }
        );
    }
    bench.quiet().await;
    let stats = bench.handle.stats();
    assert!(stats.preemptions > 0, "the pool was to be too small");
    assert!(stats.prefix_hit_tokens > 0, "prefixes were to be shared");
}

#[tokio::test]
async fn what_was_not_read_comes_at_once() {
    let bench = Bench::serving(LIMITS).await;
    let mut tokens = bench.generate(request(&prompt(1, 5), 10)).await;
    bench.launched(10).await;
    bench.quiet().await;
    let progress = soon(tokens.next()).await.unwrap();
    assert_eq!(progress.started, Some(0));
    assert_eq!(
        ids(&progress.tokens),
        bench.device.expected_tokens(&prompt(1, 5), 10)
    );
    assert_eq!(progress.end, Some(End::Finish(Finish::Length)));
    assert_eq!(soon(tokens.next()).await, None);
}

#[tokio::test]
async fn a_stop_token_is_the_last() {
    let bench = Bench::serving(LIMITS).await;
    let text = prompt(3, 9);
    let expected = bench.device.expected_tokens(&text, 20);
    let sampling = Sampling {
        stop_tokens: vec![Token(1), expected[6]],
        ..Sampling::default()
    };
    let generate = Generate {
        sampling,
        ..request(&text, 20)
    };
    let heard = read(&mut bench.generate(generate).await).await;
    assert_eq!(heard.tokens, expected[..=6]);
    assert_eq!(heard.end, Some(End::Finish(Finish::Stop)));
}

#[tokio::test]
async fn sampling_reaches_the_executor() {
    let bench = Bench::serving(LIMITS).await;
    let text = prompt(3, 9);
    let sampling = Sampling {
        temperature: Some(1.0),
        seed: 42,
        logprobs: Some(3),
        ..Sampling::default()
    };
    let generate = Generate {
        sampling: sampling.clone(),
        ..request(&text, 8)
    };
    let mut tokens = bench.generate(generate).await;
    bench.launched(8).await;
    bench.quiet().await;
    let progress = soon(tokens.next()).await.unwrap();
    let expected = bench.device.expected_sampled(&sampling, &text, 8);
    assert_eq!(ids(&progress.tokens), expected);
    assert_ne!(expected, bench.device.expected_tokens(&text, 8));
    for generated in &progress.tokens {
        assert_eq!(generated.top.len(), 3);
        assert_eq!(generated.top[0].token, generated.token);
    }
}

#[tokio::test]
async fn a_prefix_is_shared_only_under_the_same_tenant_and_salt() {
    let bench = Bench::serving(LIMITS).await;
    let text = prompt(5, 33);
    let cached = async |tenant: &str, cache_salt: &str| {
        let generate = Generate {
            tenant: tenant.to_owned(),
            cache_salt: cache_salt.to_owned(),
            ..request(&text, 1)
        };
        let mut tokens = bench.generate(generate).await;
        let cached = soon(tokens.next()).await.unwrap().started.unwrap();
        read(&mut tokens).await;
        cached
    };
    assert_eq!(cached("a", "").await, 0);
    assert_eq!(cached("a", "").await, 32);
    assert_eq!(cached("b", "").await, 0);
    assert_eq!(cached("a", "salt").await, 0);
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused() {
    let limits = Limits {
        running_max: 1,
        waiting_max: 1,
        ..LIMITS
    };
    let bench = Bench::serving(limits).await;
    let refusal = async |generate| match soon(bench.handle.generate(generate)).await {
        Ok(_) => panic!("it was taken"),
        Err(Refusal::Reject(reject)) => reject,
        Err(refusal) => panic!("{refusal}"),
    };
    assert_eq!(refusal(request(&[], 1)).await, Reject::EmptyPrompt);
    assert_eq!(
        refusal(request(&prompt(1, 250), 7)).await,
        Reject::TooLong {
            tokens: 257,
            tokens_max: 256
        }
    );
    let text = prompt(1, 4);
    let requests = [request(&text, 50), request(&text, 50)];
    let mut streams = bench.generate_held(requests).await;
    let third = bench.handle.generate(request(&text, 50));
    let step = async { bench.device.allow(1) };
    let (third, _) = tokio::join!(soon(third), step);
    let full = Refusal::Reject(Reject::QueueFull { waiting: 1 });
    assert_eq!(third.unwrap_err(), full);
    bench.device.release();
    for tokens in &mut streams {
        let heard = read(tokens).await;
        assert_eq!(heard.tokens, bench.device.expected_tokens(&text, 50));
    }
}

#[tokio::test]
async fn several_at_once_cost_one_step_and_one_prompt() {
    let bench = Bench::serving(LIMITS).await;
    bench.device.hold();
    let text = prompt(2, 33);
    let mut first = bench.generate(request(&prompt(1, 5), 30)).await;
    bench.launched(1).await;
    let mut siblings = Box::pin(bench.handle.generate_all((0..4).map(|_| request(&text, 3))));
    assert!(at_once(&mut siblings).await.is_none(), "the step is held");
    bench.device.allow(1);
    // The second step is held, too.
    let mut siblings = soon(siblings).await.unwrap();
    assert_eq!(siblings.len(), 4);
    bench.device.release();
    let mut cached = Vec::new();
    for tokens in &mut siblings {
        cached.push(soon(tokens.next()).await.unwrap().started.unwrap());
        read(tokens).await;
    }
    assert_eq!(cached, [0, 32, 32, 32]);
    read(&mut first).await;
    bench.quiet().await;
}

#[tokio::test]
async fn several_at_once_are_taken_together_or_not_at_all() {
    let bench = Bench::serving(LIMITS).await;
    let text = prompt(1, 5);
    let requests = [request(&text, 30), request(&[], 30), request(&text, 30)];
    let refusal = soon(bench.handle.generate_all(requests)).await;
    let empty = Refusal::Reject(Reject::EmptyPrompt);
    assert_eq!(refusal.unwrap_err(), empty);
    bench.quiet().await;
}

#[tokio::test]
async fn a_burst_fills_the_slots_and_the_queue() {
    let limits = Limits {
        running_max: 2,
        waiting_max: 3,
        ..LIMITS
    };
    let bench = Bench::serving(limits).await;
    let burst = |count| (0..count).map(|number| request(&prompt(number, 5), 4));
    let mut streams = soon(bench.handle.generate_all(burst(5))).await.unwrap();
    for tokens in &mut streams {
        assert_eq!(read(tokens).await.tokens.len(), 4);
    }
    bench.quiet().await;
    // Nobody can end before the last one is asked for.
    bench.device.hold();
    let mut six = Box::pin(bench.handle.generate_all(burst(6)));
    let refusal = if let Some(refusal) = at_once(&mut six).await {
        refusal
    } else {
        bench.device.allow(1);
        soon(six).await
    };
    bench.device.release();
    let full = |refusal: &Refusal| matches!(refusal, Refusal::Reject(Reject::QueueFull { .. }));
    assert!(full(&refusal.unwrap_err()));
    bench.quiet().await;
}

#[tokio::test]
async fn a_token_does_not_wait_for_the_next_step() {
    let bench = Bench::serving(LIMITS).await;
    bench.device.hold();
    let text = prompt(1, 5);
    let mut tokens = bench.generate(request(&text, 10)).await;
    for step in 1..10 {
        bench.allow(1).await;
        let heard = at_once(tokens.next()).await.flatten().unwrap();
        let expected = bench.device.expected_tokens(&text, step);
        assert_eq!(ids(&heard.tokens), expected[step - 1..]);
    }
    bench.device.release();
    read(&mut tokens).await;
}
