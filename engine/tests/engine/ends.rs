//! How streams and engines end before their work is done.

use std::time::Duration;

use engine::handle::{End, Generate, Health, Refusal};
use engine::limits::Limits;
use engine::request::Finish;

use crate::bench::{
    Bench, LIMITS, STALL_TIMEOUT, device, ids, prompt, reach, read, request, soon, until,
};

#[tokio::test]
async fn dropping_a_stream_frees_everything_it_held() {
    let bench = Bench::serving(LIMITS).await;
    let text = prompt(1, 10);
    let requests = [request(&text, 50), request(&prompt(2, 10), 50)];
    let mut streams = bench.generate_held(requests).await;
    bench.allow(3).await;
    drop(streams.pop());
    bench.allow(1).await;
    until(|| bench.device.admitted() == 1 && bench.handle.stats().running == 1).await;
    bench.device.release();
    let heard = read(&mut streams[0]).await;
    assert_eq!(heard.tokens, bench.device.expected_tokens(&text, 50));
    bench.quiet().await;
}

#[tokio::test]
async fn a_caller_who_leaves_before_the_verdict_leaves_nothing() {
    let bench = Bench::serving(LIMITS).await;
    bench.device.hold();
    let text = prompt(1, 10);
    let mut kept = bench.generate(request(&text, 5)).await;
    bench.launched(1).await;
    let handle = bench.handle.clone();
    let hasty = tokio::spawn(async move {
        let generate = handle.generate(request(&prompt(2, 10), 5));
        tokio::select! {
            biased;
            _ = generate => panic!("the step is held"),
            () = std::future::ready(()) => {}
        }
    });
    soon(hasty).await.unwrap();
    bench.device.release();
    assert_eq!(read(&mut kept).await.tokens.len(), 5);
    bench.quiet().await;
}

#[tokio::test]
async fn a_deadline_passes_in_the_queue() {
    let limits = Limits {
        running_max: 1,
        ..LIMITS
    };
    let bench = Bench::serving(limits).await;
    let text = prompt(1, 10);
    let late = Generate {
        timeout: Some(Duration::from_secs(2)),
        ..request(&prompt(2, 10), 6)
    };
    let mut streams = bench.generate_held([request(&text, 6), late]).await;
    let (mut late, mut first) = (streams.pop().unwrap(), streams.pop().unwrap());
    bench.clock.advance(Duration::from_secs(3));
    bench.device.release();
    let heard = read(&mut late).await;
    assert_eq!((heard.starts, heard.tokens.len()), (0, 0));
    assert_eq!(heard.end, Some(End::Finish(Finish::Deadline)));
    let heard = read(&mut first).await;
    assert_eq!(heard.tokens, bench.device.expected_tokens(&text, 6));
    bench.quiet().await;
}

#[tokio::test]
async fn a_deadline_passes_while_decoding() {
    let bench = Bench::serving(LIMITS).await;
    bench.device.hold();
    let text = prompt(1, 10);
    let limited = Generate {
        timeout: Some(Duration::from_secs(2)),
        ..request(&text, 50)
    };
    let mut tokens = bench.generate(limited).await;
    bench.launched(1).await;
    bench.allow(3).await;
    bench.clock.advance(Duration::from_secs(2));
    bench.device.release();
    let heard = read(&mut tokens).await;
    assert_eq!(heard.tokens, bench.device.expected_tokens(&text, 4));
    assert_eq!(heard.end, Some(End::Finish(Finish::Deadline)));
    bench.quiet().await;
}

#[tokio::test]
async fn a_reader_who_does_not_read_is_cut_off() {
    let bench = Bench::serving(LIMITS).await;
    let (slow_text, quick_text) = (prompt(1, 10), prompt(2, 10));
    let requests = [request(&slow_text, 50), request(&quick_text, 50)];
    let mut streams = bench.generate_held(requests).await;
    let (mut quick, mut slow) = (streams.pop().unwrap(), streams.pop().unwrap());
    bench.allow(3).await;
    let mut heard_quick = Vec::new();
    while heard_quick.len() < 3 {
        heard_quick.extend(ids(&soon(quick.next()).await.unwrap().tokens));
    }
    bench.clock.advance(STALL_TIMEOUT);
    bench.device.release();
    heard_quick.extend(read(&mut quick).await.tokens);
    assert_eq!(
        heard_quick,
        bench.device.expected_tokens(&quick_text, 50),
        "a slow reader costs the others nothing"
    );
    bench.quiet().await;
    let heard = read(&mut slow).await;
    assert_eq!(heard.end, Some(End::Stalled));
    assert!(heard.tokens.len() < 10, "it went on in spite of the stall");
    let expected = bench.device.expected_tokens(&slow_text, heard.tokens.len());
    assert_eq!(heard.tokens, expected);
}

#[tokio::test]
async fn draining_takes_nothing_new_and_ends_with_the_old() {
    let bench = Bench::serving(LIMITS).await;
    bench.device.hold();
    let text = prompt(1, 10);
    let mut old = bench.generate(request(&text, 9)).await;
    bench.handle.drain();
    assert_eq!(*bench.handle.health().borrow(), Health::Draining);
    let new = bench.handle.generate(request(&text, 9)).await;
    assert_eq!(new.unwrap_err(), Refusal::Draining);
    bench.device.release();
    let heard = read(&mut old).await;
    assert_eq!(heard.tokens, bench.device.expected_tokens(&text, 9));
    soon(bench.completion.wait()).await.unwrap();
    assert_eq!(bench.device.alive(), 0);
}

#[tokio::test]
async fn an_idle_engine_drains_at_once_and_so_does_one_without_handles() {
    let bench = Bench::serving(LIMITS).await;
    bench.handle.drain();
    soon(bench.completion.wait()).await.unwrap();

    let bench = Bench::serving(LIMITS).await;
    let text = prompt(1, 10);
    let mut tokens = bench.generate(request(&text, 9)).await;
    drop(bench.handle);
    assert_eq!(
        read(&mut tokens).await.tokens,
        bench.device.expected_tokens(&text, 9)
    );
    soon(bench.completion.wait()).await.unwrap();
}

#[tokio::test]
async fn aborting_all_ends_what_runs_and_what_waits() {
    let limits = Limits {
        running_max: 1,
        ..LIMITS
    };
    let bench = Bench::on(device(256), limits).await;
    let requests = [request(&prompt(1, 10), 50), request(&prompt(2, 10), 50)];
    let mut streams = bench.generate_held(requests).await;
    bench.handle.abort_all();
    bench.device.release();
    for tokens in &mut streams {
        let end = read(tokens).await.end;
        assert_eq!(end, Some(End::Finish(Finish::Abort)));
    }
    bench.quiet().await;
    let health = *bench.handle.health().borrow();
    assert_eq!(health, Health::Serving, "it goes on serving");
    let mut next = bench.generate(request(&prompt(3, 10), 50)).await;
    assert_eq!(read(&mut next).await.tokens.len(), 50);
    bench.handle.drain();
    reach(&mut bench.handle.health(), Health::Draining).await;
}
