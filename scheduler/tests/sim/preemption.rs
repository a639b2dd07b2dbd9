//! Out of blocks, as timelines: who gives way, and how often. The language is described in
//! [`crate::script`].

use insta::assert_snapshot;

use crate::script::play;

#[test]
fn out_of_blocks_preempts_the_latest() {
    assert_snapshot!(play("
        limits step=16 running=3 blocks=6x2
        submit a prompt=3 out=6
        submit b prompt=3 out=5
        run
        stats
    "), @r"
    1: a[0..3] b[0..3] | a starts | b starts
    1. a+ b+
    2: a[3..4] b[3..4]
    2. a+ b+
    3: a[4..5] b[4..5]
    3. a+ b+
    4: a[5..6] b[5..6]
    4. a+ b+
    5: a[6..7]
    5. a+
    6: a[7..8]
    6. a+ | a ends: Length
    7: b[4..7]
    7. b+ | b ends: Length
    waiting 0 running 0 free 1 active 0 cached 5 preemptions 1 evictions 3
    ");
}

#[test]
fn the_lowest_priority_is_preempted_even_if_it_came_first() {
    assert_snapshot!(play("
        limits step=16 running=3 blocks=6x2
        submit a prompt=3 out=6
        submit b prompt=3 out=5 priority=1
        run
    "), @r"
    1: b[0..3] a[0..3] | b starts | a starts
    1. b+ a+
    2: b[3..4] a[3..4]
    2. b+ a+
    3: b[4..5] a[4..5]
    3. b+ a+
    4: b[5..6] a[5..6]
    4. b+ a+
    5: b[6..7]
    5. b+ | b ends: Length
    6: a[4..7]
    6. a+
    7: a[7..8]
    7. a+ | a ends: Length
    ");
}

#[test]
fn who_gave_way_too_often_is_passed_over_while_somebody_else_can() {
    assert_snapshot!(play("
        limits step=32 running=4 blocks=13x2 preemptions=1
        submit a prompt=4 out=12
        submit b prompt=4 out=12
        submit c prompt=7 out=4
        submit d prompt=1 out=8
        run
        stats
    "), @r"
    1: a[0..4] b[0..4] c[0..7] d[0..1] | a starts | b starts | c starts | d starts
    1. a+ b+ c+ d+
    2: a[4..5] b[4..5] c[7..8] d[1..2]
    2. a+ b+ c+ d+
    3: a[5..6] b[5..6] c[8..9] d[2..3]
    3. a+ b+ c+ d+
    4: a[6..7] b[6..7] c[9..10]
    4. a+ b+ c+ | c ends: Length
    5: a[7..8] b[7..8] d[0..4]
    5. a+ b+ d+
    6: a[8..9] b[8..9] d[4..5]
    6. a+ b+ d+
    7: a[9..10] b[9..10] d[5..6]
    7. a+ b+ d+
    8: a[10..11] d[6..7]
    8. a+ d+
    9: a[11..12] d[7..8]
    9. a+ d+ | d ends: Length
    10: a[12..13]
    10. a+
    11: a[13..14]
    11. a+
    12: a[14..15]
    12. a+ | a ends: Length
    13: b[2..11]
    13. b+
    14: b[11..12]
    14. b+
    15: b[12..13]
    15. b+
    16: b[13..14]
    16. b+
    17: b[14..15]
    17. b+ | b ends: Length
    waiting 0 running 0 free 1 active 0 cached 12 preemptions 2 evictions 16
    ");
}

#[test]
fn who_gave_way_comes_back_when_there_is_room_to_grow() {
    assert_snapshot!(play("
        limits step=32 running=4 blocks=8x2
        submit a prompt=1 out=12
        submit b prompt=2 out=4
        submit c prompt=3 out=3
        submit d prompt=6 out=6
        run
        stats
    "), @r"
    1: a[0..1] b[0..2] c[0..3] d[0..6] | a starts | b starts | c starts | d starts
    1. a+ b+ c+ d+
    2: a[1..2] b[2..3] c[3..4]
    2. a+ b+ c+
    3: a[2..3] b[3..4] c[4..5]
    3. a+ b+ c+ | c ends: Length
    4: a[3..4] b[4..5]
    4. a+ b+ | b ends: Length
    5: a[4..5]
    5. a+
    6: a[5..6]
    6. a+
    7: a[6..7]
    7. a+
    8: a[7..8]
    8. a+
    9: a[8..9]
    9. a+
    10: a[9..10]
    10. a+
    11: a[10..11]
    11. a+
    12: a[11..12]
    12. a+ | a ends: Length
    13: d[0..7]
    13. d+
    14: d[7..8]
    14. d+
    15: d[8..9]
    15. d+
    16: d[9..10]
    16. d+
    17: d[10..11]
    17. d+ | d ends: Length
    waiting 0 running 0 free 1 active 0 cached 7 preemptions 1 evictions 11
    ");
}

#[test]
fn the_best_ranked_is_never_preempted() {
    assert_snapshot!(play("
        limits step=32 running=4 blocks=8x2 preemptions=1
        submit a prompt=4 out=12
        submit c prompt=5 out=4
        submit d prompt=1 out=6
        run
        stats
    "), @r"
    1: a[0..4] c[0..5] d[0..1] | a starts | c starts | d starts
    1. a+ c+ d+
    2: a[4..5] c[5..6] d[1..2]
    2. a+ c+ d+
    3: a[5..6] c[6..7]
    3. a+ c+
    4: a[6..7] c[7..8]
    4. a+ c+ | c ends: Length
    5: a[7..8] d[0..3]
    5. a+ d+
    6: a[8..9] d[3..4]
    6. a+ d+
    7: a[9..10] d[4..5]
    7. a+ d+
    8: a[10..11]
    8. a+
    9: a[11..12]
    9. a+
    10: a[12..13]
    10. a+
    11: a[13..14]
    11. a+
    12: a[14..15]
    12. a+ | a ends: Length
    13: d[0..6]
    13. d+ | d ends: Length
    waiting 0 running 0 free 0 active 0 cached 8 preemptions 2 evictions 9
    ");
}

#[test]
fn without_patience_everybody_still_ends() {
    assert_snapshot!(play("
        limits step=16 running=3 blocks=6x2 preemptions=0
        submit a prompt=3 out=6
        submit b prompt=3 out=5
        run
        stats
    "), @r"
    1: a[0..3] b[0..3] | a starts | b starts
    1. a+ b+
    2: a[3..4] b[3..4]
    2. a+ b+
    3: a[4..5] b[4..5]
    3. a+ b+
    4: a[5..6] b[5..6]
    4. a+ b+
    5: a[6..7]
    5. a+
    6: a[7..8]
    6. a+ | a ends: Length
    7: b[4..7]
    7. b+ | b ends: Length
    waiting 0 running 0 free 1 active 0 cached 5 preemptions 1 evictions 3
    ");
}
