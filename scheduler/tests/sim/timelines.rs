//! The policy, as timelines; [`crate::preemption`] has those of running out of blocks. The language is
//! described in [`crate::script`].

use insta::assert_snapshot;

use crate::script::play;

#[test]
fn decodes_and_prompts_share_a_step() {
    assert_snapshot!(play("
        limits step=8 running=2 blocks=8x4
        submit a prompt=6 out=3
        submit b prompt=10 out=2
        run
        stats
    "), @r"
    1: a[0..6] b[0..2] | a starts | b starts
    1. a+
    2: a[6..7] b[2..9]
    2. a+
    3: a[7..8] b[9..10]
    3. a+ | a ends: Length b+
    4: b[10..11]
    4. b+ | b ends: Length
    waiting 0 running 0 free 4 active 0 cached 4 preemptions 0 evictions 0
    ");
}

#[test]
fn a_long_prompt_is_computed_in_chunks_beside_decodes() {
    assert_snapshot!(play("
        limits step=4 running=4 blocks=20x4
        submit a prompt=3 out=6
        step
        submit b prompt=11 out=2
        run
    "), @r"
    1: a[0..3] | a starts
    1. a+
    2: a[3..4] b[0..3] | b starts
    2. a+
    3: a[4..5] b[3..6]
    3. a+
    4: a[5..6] b[6..9]
    4. a+
    5: a[6..7] b[9..11]
    5. a+ b+
    6: a[7..8] b[11..12]
    6. a+ | a ends: Length b+ | b ends: Length
    ");
}

#[test]
fn a_finished_prompt_is_found_again_but_its_last_token_is_computed() {
    assert_snapshot!(play("
        limits step=16 running=2 blocks=8x4
        submit a prompt=8 out=1
        run
        submit b prompt=8 out=1 like=a:8
        run
        submit c prompt=9 out=1 like=a:8
        run
        submit d prompt=9 out=1 like=a:7
        run
        stats
    "), @r"
    1: a[0..8] | a starts
    1. a+ | a ends: Length
    2: b[4..8] | b starts at 4
    2. b+ | b ends: Length
    3: c[8..9] | c starts at 8
    3. c+ | c ends: Length
    4: d[4..9] | d starts at 4
    4. d+ | d ends: Length
    waiting 0 running 0 free 5 active 0 cached 3 preemptions 0 evictions 0
    ");
}

#[test]
fn live_sequences_share_blocks() {
    assert_snapshot!(play("
        limits step=16 running=2 blocks=6x4
        submit a prompt=8 out=4
        step
        submit b prompt=9 out=3 like=a:8
        step
        stats
        run
        stats
    "), @r"
    1: a[0..8] | a starts
    1. a+
    2: a[8..9] b[8..9] | b starts at 8
    2. a+ b+
    waiting 0 running 2 free 2 active 4 cached 0 preemptions 0 evictions 0
    3: a[9..10] b[9..10]
    3. a+ b+
    4: a[10..11] b[10..11]
    4. a+ | a ends: Length b+ | b ends: Length
    waiting 0 running 0 free 4 active 0 cached 2 preemptions 0 evictions 0
    ");
}

#[test]
fn who_wants_blocks_that_are_being_computed_waits_for_them() {
    assert_snapshot!(play("
        limits step=32 running=2 blocks=8x4 depth=2
        submit a prompt=9 out=2
        plan
        submit b prompt=9 out=1 like=a:8
        run
    "), @r"
    1: a[0..9] | a starts
    2: a[9..10]?
    1. a+
    3: b[8..9] | b starts at 8
    2. a+ | a ends: Length
    3. b+ | b ends: Length
    ");
}

#[test]
fn one_block_is_computed_twice_rather_than_waited_for() {
    assert_snapshot!(play("
        limits step=32 running=2 blocks=8x4 depth=2
        submit a prompt=9 out=2
        plan
        submit b prompt=9 out=1 like=a:7
        run
    "), @r"
    1: a[0..9] | a starts
    2: a[9..10]? b[0..9] | b starts
    1. a+
    2. a+ | a ends: Length b+ | b ends: Length
    ");
}

#[test]
fn siblings_compute_their_prompt_once() {
    assert_snapshot!(play("
        limits step=32 running=4 blocks=20x4
        submit a prompt=13 out=2
        submit b prompt=13 out=2 like=a:13
        submit c prompt=13 out=2 like=a:13
        submit d prompt=13 out=2 like=a:13
        run
    "), @r"
    1: a[0..13] | a starts
    1. a+
    2: a[13..14] b[12..13] c[12..13] d[12..13] | b starts at 12 | c starts at 12 | d starts at 12
    2. a+ | a ends: Length b+ c+ d+
    3: b[13..14] c[13..14] d[13..14]
    3. b+ | b ends: Length c+ | c ends: Length d+ | d ends: Length
    ");
}

#[test]
fn siblings_copy_the_end_of_their_prompt() {
    // Two full blocks are shared, and of the tail's six tokens all but the last is copied.
    assert_snapshot!(play("
        limits step=32 running=4 blocks=20x8
        submit a prompt=22 out=2
        submit b prompt=22 out=2 like=a:22
        submit c prompt=22 out=2 like=a:22
        run
    "), @r"
    1: a[0..22] | a starts
    1. a+
    2: a[22..23] b[21..22] c[21..22] | b starts at 21 | c starts at 21
    2. a+ | a ends: Length b+ c+
    3: b[22..23] c[22..23]
    3. b+ | b ends: Length c+ | c ends: Length
    ");
}

#[test]
fn a_block_that_goes_on_differently_is_copied_as_far_as_it_is_the_same() {
    // c has too little in common with anybody; d finds nobody once all is flushed.
    assert_snapshot!(play("
        limits step=32 running=4 blocks=20x8
        submit a prompt=17 out=1
        run
        submit b prompt=17 out=1 like=a:13
        submit c prompt=17 out=1 like=a:11
        run
        flush
        submit d prompt=17 out=1 like=a:13
        run
    "), @r"
    1: a[0..17] | a starts
    1. a+ | a ends: Length
    2: b[13..17] c[8..17] | b starts at 13 | c starts at 8
    2. b+ | b ends: Length c+ | c ends: Length
    flushed 4
    3: d[0..17] | d starts
    3. d+ | d ends: Length
    ");
}

#[test]
fn the_end_of_a_prompt_is_lent_while_its_sequence_runs() {
    assert_snapshot!(play("
        limits step=32 running=4 blocks=20x8
        submit a prompt=6 out=2
        step
        submit b prompt=7 out=1 like=a:6
        step
        submit c prompt=8 out=1 like=a:6
        step
    "), @r"
    1: a[0..6] | a starts
    1. a+
    2: a[6..7] b[6..7] | b starts at 6
    2. a+ | a ends: Length b+ | b ends: Length
    3: c[0..8] | c starts
    3. c+ | c ends: Length
    ");
}

#[test]
fn nobody_copies_from_a_sequence_that_failed() {
    assert_snapshot!(play("
        limits step=32 running=4 blocks=20x8 depth=2
        submit a prompt=6 out=4 fault=2
        step
        plan
        plan
        apply
        submit b prompt=8 out=1 like=a:6
        plan
    "), @r"
    1: a[0..6] | a starts
    1. a+
    2: a[6..7]
    3: a[7..8]?
    2. | a ends: Fault
    4: b[0..8] | b starts
    ");
}

#[test]
fn generated_tokens_are_found_again() {
    assert_snapshot!(play("
        limits step=16 running=2 blocks=8x4
        submit a prompt=4 out=6
        run
        submit b prompt=11 out=1 like=a:10
        run
    "), @r"
    1: a[0..4] | a starts
    1. a+
    2: a[4..5]
    2. a+
    3: a[5..6]
    3. a+
    4: a[6..7]
    4. a+
    5: a[7..8]
    5. a+
    6: a[8..9]
    6. a+ | a ends: Length
    7: b[8..11] | b starts at 8
    7. b+ | b ends: Length
    ");
}

#[test]
fn nothing_is_planned_at_the_deadline() {
    assert_snapshot!(play("
        limits step=8 running=1 blocks=8x4
        submit a prompt=4 out=9 deadline=30
        submit b prompt=4 out=1 deadline=31
        submit c prompt=4 out=1
        step
        at 29
        step
        at 30
        plan
        at 31
        apply
        run
        submit d prompt=1 out=1 deadline=31
    "), @r"
    1: a[0..4] | a starts
    1. a+
    2: a[4..5]
    2. a+
    3: b[0..4] | a ends: Deadline | b starts
    3. b+ | b ends: Length
    4: c[0..4] | c starts
    4. c+ | c ends: Length
    d rejected: Expired
    ");
}

#[test]
fn an_abort_frees_at_once() {
    assert_snapshot!(play("
        limits step=8 running=1 blocks=4x4
        submit a prompt=8 out=8
        submit b prompt=4 out=1
        step
        stats
        abort a
        stats
        run
    "), @r"
    1: a[0..8] | a starts
    1. a+
    waiting 1 running 1 free 2 active 2 cached 0 preemptions 0 evictions 0
    abort | a ends: Abort
    waiting 1 running 0 free 2 active 0 cached 2 preemptions 0 evictions 0
    2: b[0..4] | b starts
    2. b+ | b ends: Length
    ");
}

#[test]
fn an_abort_in_flight_frees_behind_the_fence() {
    assert_snapshot!(play("
        limits step=8 running=2 blocks=4x4 depth=2
        submit a prompt=6 out=8
        plan
        abort a
        stats
        submit b prompt=12 out=1
        plan
        apply
        stats
        run
    "), @r"
    1: a[0..6] | a starts
    abort | a ends: Abort
    waiting 0 running 0 free 2 active 2 cached 0 preemptions 0 evictions 0
    1.
    waiting 1 running 0 free 4 active 0 cached 0 preemptions 0 evictions 0
    2: b[0..8] | b starts
    3: b[8..12]
    2.
    3. b+ | b ends: Length
    ");
}

#[test]
fn a_higher_band_starts_first() {
    assert_snapshot!(play("
        limits step=4 running=1 blocks=8x4
        submit a prompt=4 out=1
        submit b prompt=4 out=1
        submit c prompt=4 out=1 priority=1
        run
    "), @r"
    1: c[0..4] | c starts
    1. c+ | c ends: Length
    2: a[0..4] | a starts
    2. a+ | a ends: Length
    3: b[0..4] | b starts
    3. b+ | b ends: Length
    ");
}

#[test]
fn tenants_take_turns_by_tokens() {
    assert_snapshot!(play("
        limits step=8 running=1 blocks=8x4
        submit a prompt=8 out=1 tenant=1
        submit b prompt=8 out=1 tenant=1
        submit c prompt=8 out=1 tenant=1
        submit d prompt=2 out=1 tenant=2
        submit e prompt=2 out=1 tenant=2
        submit f prompt=2 out=1 tenant=2
        run
    "), @r"
    1: a[0..8] | a starts
    1. a+ | a ends: Length
    2: d[0..2] | d starts
    2. d+ | d ends: Length
    3: e[0..2] | e starts
    3. e+ | e ends: Length
    4: f[0..2] | f starts
    4. f+ | f ends: Length
    5: b[0..8] | b starts
    5. b+ | b ends: Length
    6: c[0..8] | c starts
    6. c+ | c ends: Length
    ");
}

#[test]
fn the_nearer_deadline_starts_first() {
    assert_snapshot!(play("
        limits step=8 running=1 blocks=8x4
        submit a prompt=2 out=1
        submit b prompt=2 out=1 deadline=90
        submit c prompt=2 out=1 deadline=80
        run
    "), @r"
    1: c[0..2] | c starts
    1. c+ | c ends: Length
    2: b[0..2] | b starts
    2. b+ | b ends: Length
    3: a[0..2] | a starts
    3. a+ | a ends: Length
    ");
}

#[test]
fn what_can_never_fit_and_what_cannot_wait_is_refused() {
    assert_snapshot!(play("
        limits step=8 running=1 blocks=4x4 waiting=1 length=20
        submit a prompt=0 out=1
        submit b prompt=16 out=5
        submit c prompt=16 out=1
        submit d prompt=15 out=1
        submit e prompt=1 out=1
        run
    "), @r"
    a rejected: EmptyPrompt
    b rejected: TooLong { tokens: 21, tokens_max: 20 }
    c rejected: ExceedsPool { blocks: 5, blocks_max: 4 }
    e rejected: QueueFull { waiting: 1 }
    1: d[0..8] | d starts
    1.
    2: d[8..15]
    2. d+ | d ends: Length
    ");
}

#[test]
fn two_steps_in_flight() {
    assert_snapshot!(play("
        limits step=8 running=2 blocks=8x4 depth=2
        submit a prompt=6 out=4
        submit b prompt=3 out=9 stop=2
        run
        stats
    "), @r"
    1: a[0..6] b[0..2] | a starts | b starts
    2: a[6..7]? b[2..3]
    1. a+
    3: a[7..8]? b[3..4]?
    2. a+ b+
    4: a[8..9]? b[4..5]?
    3. a+ b+ | b ends: Stop
    4. a+ | a ends: Length
    waiting 0 running 0 free 5 active 0 cached 3 preemptions 0 evictions 0
    ");
}

#[test]
fn two_steps_in_flight_and_no_block_left() {
    assert_snapshot!(play("
        limits step=16 running=3 blocks=6x2 depth=2
        submit a prompt=3 out=6
        submit b prompt=3 out=5
        run
        stats
    "), @r"
    1: a[0..3] b[0..3] | a starts | b starts
    2: a[3..4]? b[3..4]?
    1. a+ b+
    3: a[4..5]? b[4..5]?
    2. a+ b+
    4: a[5..6]? b[5..6]?
    3. a+ b+
    4. a+ b+
    5: a[6..7]
    6: a[7..8]?
    5. a+
    6. a+ | a ends: Length
    7: b[4..7]
    7. b+ | b ends: Length
    waiting 0 running 0 free 1 active 0 cached 5 preemptions 1 evictions 2
    ");
}

#[test]
fn a_replayed_request_goes_on_where_it_was() {
    assert_snapshot!(play("
        limits step=16 running=2 blocks=8x4
        submit a prompt=4 out=6 replay=3
        submit b prompt=4 out=2 replay=2
        run
    "), @r"
    1: a[0..7] | b ends: Length | a starts
    1. a+
    2: a[7..8]
    2. a+
    3: a[8..9]
    3. a+ | a ends: Length
    ");
}

#[test]
fn what_a_faulty_sequence_computed_is_not_shared() {
    assert_snapshot!(play("
        limits step=4 running=2 blocks=8x4
        submit a prompt=9 out=2 fault=1
        run
        submit b prompt=9 out=1 like=a:8
        run
        stats
    "), @r"
    1: a[0..4] | a starts
    1.
    2: a[4..8]
    2.
    3: a[8..9]
    3. | a ends: Fault
    4: b[0..4] | b starts
    4.
    5: b[4..8]
    5.
    6: b[8..9]
    6. b+ | b ends: Length
    waiting 0 running 0 free 6 active 0 cached 2 preemptions 0 evictions 0
    ");
}

#[test]
fn the_cache_gives_way_and_can_be_flushed() {
    assert_snapshot!(play("
        limits step=16 running=1 blocks=4x4
        submit a prompt=8 out=1
        run
        submit b prompt=12 out=1
        run
        stats
        flush
        stats
    "), @r"
    1: a[0..8] | a starts
    1. a+ | a ends: Length
    2: b[0..12] | b starts
    2. b+ | b ends: Length
    waiting 0 running 0 free 0 active 0 cached 4 preemptions 0 evictions 1
    flushed 4
    waiting 0 running 0 free 4 active 0 cached 0 preemptions 0 evictions 1
    ");
}

#[test]
fn a_big_request_is_not_overtaken() {
    assert_snapshot!(play("
        limits step=16 running=3 blocks=4x4
        submit a prompt=4 out=5
        submit b prompt=12 out=1
        submit c prompt=2 out=1
        run
    "), @r"
    1: a[0..4] | a starts
    1. a+
    2: a[4..5]
    2. a+
    3: a[5..6]
    3. a+
    4: a[6..7]
    4. a+
    5: a[7..8]
    5. a+ | a ends: Length
    6: b[0..12] | b starts
    6. b+ | b ends: Length
    7: c[0..2] | c starts
    7. c+ | c ends: Length
    ");
}
