//! What a person sees.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hub::display::{Bars, Lines};
use hub::observe::{Event, Observer};
use indicatif::{InMemoryTerm, ProgressDrawTarget};

use crate::server::TestClock;

#[test]
fn lines_come_now_and_then() {
    let clock = Arc::new(TestClock::default());
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    let display = Lines::new(clock.clone(), move |line| {
        sink.lock().unwrap().push(line.to_owned());
    });
    display.note(&Event::Planned {
        files: 3,
        bytes: 3 << 30,
    });
    let file = "model.safetensors";
    display.note(&Event::Started {
        file,
        bytes: 3 << 30,
        kept: 1 << 30,
    });
    for _ in 0..200 {
        clock.pass(Duration::from_millis(100));
        display.note(&Event::Received {
            file,
            bytes: 10 << 20,
        });
    }
    display.note(&Event::Finished {
        file,
        bytes: 3 << 30,
    });
    let expected = [
        "3 files, 3.00 GiB",
        "1.49 GiB of 3.00 GiB (49 %), 0 of 3 files, 100.00 MiB/s, 15 seconds left",
        "1.98 GiB of 3.00 GiB (65 %), 0 of 3 files, 100.00 MiB/s, 10 seconds left",
        "2.46 GiB of 3.00 GiB (82 %), 0 of 3 files, 100.00 MiB/s, 5 seconds left",
        "2.95 GiB of 3.00 GiB (98 %), 0 of 3 files, 100.00 MiB/s, 0 seconds left",
    ];
    assert_eq!(*lines.lock().unwrap(), expected);
}

#[test]
fn bars_show_files_bytes_and_the_whole() {
    let terminal = InMemoryTerm::new(10, 120);
    let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
    let bars = Bars::on(target, "org/tiny");
    bars.note(&Event::Planned {
        files: 2,
        bytes: 6 << 20,
    });
    let (large, small) = ("model.safetensors", "config.json");
    for (file, bytes) in [(large, 4 << 20), (small, 2 << 19)] {
        bars.note(&Event::Started {
            file,
            bytes,
            kept: 0,
        });
    }
    bars.note(&Event::Received {
        file: large,
        bytes: 3 << 20,
    });
    bars.note(&Event::Waiting { file: small });
    let shown = terminal.contents();
    assert!(shown.contains("org/tiny ["), "{shown}");
    assert!(shown.contains("0/2 files, 3.00 MiB/6.00 MiB"), "{shown}");
    assert!(shown.contains("  model.safetensors ["), "{shown}");
    assert!(shown.contains("3.00 MiB/4.00 MiB"), "{shown}");
    assert!(
        shown.contains("config.json: waiting for another process"),
        "{shown}"
    );
    bars.note(&Event::Finished {
        file: large,
        bytes: 4 << 20,
    });
    let shown = terminal.contents();
    assert!(!shown.contains("  model.safetensors ["), "{shown}");
    bars.clear();
    assert!(
        !terminal.contents().contains('['),
        "{}",
        terminal.contents()
    );
}
