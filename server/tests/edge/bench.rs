//! `paternoster bench` against a server: what it counts is what happened.

use std::sync::Arc;

use ::load::args::BenchArgs;
use ::load::command::measure;
use ::load::grpc::Grpc;
use ::load::run;
use ::load::tally::{Objective, Tally};
use server::args::{Args, Command};
use server::limits::Limits;
use tokio_util::sync::CancellationToken;

use crate::world::{Plan, World, eventually, soon};

fn args(world: &World, flags: &[&str]) -> BenchArgs {
    let address = world.address.to_string();
    let typed = ["paternoster", "bench", "--quiet", "--addr", &address];
    let typed = typed.iter().chain(flags);
    match Args::read(typed).unwrap().command {
        Command::Bench(args) => *args,
        _ => panic!("not bench"),
    }
}

#[tokio::test]
async fn a_closed_loop_counts_what_the_server_did() {
    let world = World::ready().await;
    let flags = [
        "-c",
        "8",
        "-n",
        "80",
        "--connections",
        "3",
        "--max-tokens",
        "7",
        "--ignore-eos",
        "--prompt-tokens",
        "5",
        "--input",
        "ids",
        "--embed",
        "25%",
        "--embed-inputs",
        "2",
        "--cancel",
        "25%",
        "--cancel-after",
        "2",
    ];
    let report = soon(measure(&args(&world, &flags), CancellationToken::new())).await;
    let report = report.unwrap();
    let requests = report.requests;
    assert_eq!(
        (requests.begun, requests.failed, requests.unfinished),
        (80, 0, 0)
    );
    assert_eq!(requests.completed + requests.embedded + requests.left, 80);
    assert!(requests.completed > 0 && requests.embedded > 0 && requests.left > 0);
    assert_eq!(report.tokens.vectors, 2 * requests.embedded);
    let output = 7 * requests.completed..=7 * (requests.completed + requests.left);
    assert!(
        output.contains(&report.tokens.output),
        "{:?}",
        report.tokens
    );
    assert_eq!(report.latencies.e2e.count, requests.completed);
    assert!(report.latencies.ttft.p50 <= report.latencies.e2e.max);
    world.blocks_are_free().await;
}

#[tokio::test]
async fn an_open_loop_tells_refusals_from_what_is_unfinished() {
    let world = World::ready_with(Plan {
        limits: Limits {
            calls_max: 2,
            ..Plan::default().limits
        },
        ..Plan::default()
    })
    .await;
    world.device.hold();
    let flags = [
        "--rate",
        "1000",
        "--arrivals",
        "constant",
        "-n",
        "8",
        "--prompt",
        "x",
    ];
    let args = args(&world, &flags);
    let address = args.address();
    let connected = Grpc::connect(&address, 1, String::new(), Vec::new(), None);
    let target = Arc::new(connected.await.unwrap());
    let tally = Arc::new(Tally::new(Objective::default()));
    let stop = CancellationToken::new();
    let scenario = args.scenario(0).unwrap();
    let running = tokio::spawn(run::run(target, scenario, Arc::clone(&tally), stop.clone()));
    eventually(|| tally.with_counts(|counts| counts.failed == 6)).await;
    stop.cancel();
    soon(running).await.unwrap();
    tally.with_counts(|counts| {
        assert_eq!((counts.begun, counts.completed), (8, 0));
        let key = ("RESOURCE_EXHAUSTED".to_owned(), "QUEUE_FULL".to_owned());
        assert_eq!(
            (counts.errors[&key].count, counts.errors[&key].with_retry),
            (6, 6)
        );
    });
    world.device.release();
    world.blocks_are_free().await;
}
