//! The program itself. Having this test, cargo builds it for those in `tests/`, too, which run it.

use std::process::Command;

#[test]
fn without_a_certificate_it_says_how_to_get_one() {
    let told = Command::new(env!("CARGO_BIN_EXE_iceflix-catalog"))
        .arg("--state-dir")
        .arg(concat!(env!("CARGO_TARGET_TMPDIR"), "/catalog"))
        .output()
        .expect("the program runs");
    assert!(!told.status.success());
    let said = String::from_utf8_lossy(&told.stderr);
    let wanted = ["catalog cannot start", "iceflix cluster init"];
    assert!(wanted.iter().all(|part| said.contains(part)), "{said}");
}
