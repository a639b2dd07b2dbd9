//! Whole runs, by their flags: what comes out is what queueing and the scheduler's promises say.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use clap::Parser;
use simulator::args::SimulateArgs;
use simulator::report::Report;
use simulator::simulation::run;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: SimulateArgs,
}

fn args(flags: &str) -> SimulateArgs {
    let words = std::iter::once("simulate").chain(flags.split_whitespace());
    Line::try_parse_from(words).unwrap().args
}

fn report(flags: &str) -> Report {
    run(&args(flags).scenario().unwrap(), &mut |_| {})
}

const SHORT: &str = "--warmup 2s --duration 8s";

#[test]
fn the_same_flags_give_the_same_report_and_another_seed_another() {
    let flags = format!(
        "{SHORT} --workload agents --rate 20 --replicas 3 --routing power-of-two --report-period 50ms --gateways 2"
    );
    let first = report(&flags).json();
    assert_eq!(first, report(&flags).json());
    assert_ne!(first, report(&format!("{flags} --seed 2")).json());
}

#[test]
fn every_request_ends_once_and_gives_its_tokens() {
    for flags in [
        "--rate 20",
        "--rate 20 --depth 2",
        "--rate 30 --kv-tokens 20000 --max-waiting-requests 10 --max-total-tokens 8000",
        "--rate 20 --deadline 1s",
        "--rate 60 --workload agents --think-time 100ms --replicas 2 --routing session-affinity",
        "--rate 10 --workload tenants",
        "--concurrency 30",
    ] {
        let report = report(&format!("{SHORT} {flags} --output-tokens 40"));
        let requests = report.requests;
        assert!(requests.begun > 50, "{flags}: {requests:?}");
        let ended = requests.completed + requests.rejected + requests.expired;
        assert_eq!(requests.begun, ended, "{flags}: {requests:?}");
        assert!(requests.output_tokens >= 40 * requests.completed, "{flags}");
        if requests.expired == 0 && !flags.contains("concurrency") {
            assert_eq!(requests.output_tokens, 40 * requests.completed, "{flags}");
        }
        assert_eq!(report.latencies.e2e.count, requests.completed, "{flags}");
        assert!(
            report.kv.use_peak <= 1.0 && report.steps.busy <= 1.01,
            "{flags}"
        );
    }
}

#[test]
fn full_queues_deadlines_and_a_small_cache_show() {
    let crowded = report(&format!(
        "{SHORT} --rate 400 --max-waiting-requests 20 --max-batch-size 32"
    ));
    assert!(crowded.requests.rejected > 1000, "{:?}", crowded.requests);
    let hurried = report(&format!("{SHORT} --rate 20 --deadline 300ms"));
    assert!(hurried.requests.expired > 50, "{:?}", hurried.requests);
    let cramped = report(&format!("{SHORT} --rate 60 --kv-tokens 16000"));
    assert!(cramped.kv.preemptions > 0, "{:?}", cramped.kv);
    assert!(cramped.kv.use_peak > 0.95, "{:?}", cramped.kv);
}

/// One client and fixed lengths, by hand: the weights of 8B in fp8 are 7.5 GB, 1.7 ms; a
/// prompt of 1,000 tokens costs 13 ms of arithmetic, a decode nothing to speak of; a step costs 2 ms.
#[test]
fn a_client_alone_waits_for_its_own_steps_only() {
    let report = report(&format!(
        "{SHORT} -c 1 --prompt-tokens 1000 --output-tokens 50"
    ));
    let (ttft, itl) = (report.latencies.ttft, report.latencies.itl);
    assert!((16.0..18.0).contains(&ttft.p50), "{ttft:?}");
    assert!((ttft.max - ttft.p50).abs() < 0.1, "{ttft:?}");
    assert!((3.6..3.9).contains(&itl.p50) && itl.max < 3.9, "{itl:?}");
    let steps = report.steps;
    assert!(
        steps.busy > 0.999 && (steps.sequences - 1.0).abs() < 0.01,
        "{steps:?}"
    );
}

#[test]
fn shared_beginnings_and_earlier_turns_are_found_in_the_cache() {
    let hits = |flags: &str| report(&format!("{SHORT} --rate 10 {flags}")).kv.hit_rate;
    assert!(hits("--workload sharegpt") < 1e-9);
    let agents = hits("--workload agents");
    assert!(agents > 0.5, "{agents}");
    let spread = "--workload agents --replicas 4 --prefixes 0 --think-time 200ms --routing";
    let (apart, together) = (
        hits(&format!("{spread} round-robin")),
        hits(&format!("{spread} session-affinity --load-bound 4")),
    );
    assert!(together > apart + 0.2, "{together} {apart}");
}

#[test]
fn a_router_that_knows_more_does_better() {
    let p99 = |routing: &str| {
        let flags =
            format!("{SHORT} --rate 150 --replicas 4 --max-batch-size 48 --routing {routing}");
        report(&flags).latencies.ttft.p99
    };
    let (random, two, least) = (p99("random"), p99("power-of-two"), p99("least-requests"));
    assert!(two < random && least < random, "{random} {two} {least}");
}

#[test]
fn fairness_protects_a_quiet_tenant_and_costs_no_throughput() {
    let overload = |order: &str| {
        report(&format!(
            "{SHORT} --tenant-rates 2:400 --max-batch-size 256 --order {order}"
        ))
    };
    let (fcfs, fair) = (overload("fcfs"), overload("fair"));
    let victim = |report: &Report| report.tenants[0].ttft.p99;
    assert!(
        victim(&fair) * 5.0 < victim(&fcfs),
        "{} {}",
        victim(&fair),
        victim(&fcfs)
    );
    assert!(fair.rates.output_tokens > 0.97 * fcfs.rates.output_tokens);
    assert!(fair.fairness > 0.97 && fcfs.fairness < fair.fairness);
}

#[test]
fn impossible_flags_are_refused() {
    for flags in [
        "--model llama-3.3-70b-fp8 --hardware cpu",
        "--hardware x",
        "--trace /none",
        "--spec /none",
        "--duration 0",
    ] {
        assert!(args(flags).scenario().is_err(), "{flags}");
    }
}
