//! Help, versions and wrong usage.

use crate::program::ds4;

#[test]
fn the_version_is_the_packages() {
    assert_eq!(ds4(["--version"]).stdout(), format!("ds4 {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_teaches_with_examples() {
    for args in [&["--help"][..], &["run", "--help"], &["inspect", "--help"], &["debug", "--help"]] {
        let help = ds4(args).stdout();
        assert!(help.contains("Examples:") && help.contains("Usage:"), "{help}");
    }
    let run = ds4(["run", "--help"]).stdout();
    assert!(run.contains("The answer goes to standard output, and nothing else does"), "{run}");
}

#[test]
fn wrong_usage_has_its_own_exit_code_and_names_the_option() {
    let cases: [(&[&str], &str); 20] = [
        (&[], "Usage:"),
        (&["frobnicate"], "frobnicate"),
        (&["run"], "--prompt"),
        (&["run", "-p", "a", "--prompt-file", "b"], "--prompt-file"),
        (&["run", "-p", "a", "--temp", "3"], "--temp: temperature is 3"),
        (&["run", "-p", "a", "--temp", "nan"], "--temp"),
        (&["run", "-p", "a", "--repeat-penalty", "0"], "--repeat-penalty"),
        (&["run", "-p", "a", "--min-p", "-1"], "--min-p"),
        (&["run", "-p", "a", "--stop", ""], "--stop"),
        (&["run", "-p", "a", "-n", "0"], "--tokens"),
        (&["run", "-p", "a", "--ctx", "9999999"], "--ctx is 9999999"),
        (&["run", "-p", "a", "--think", "much"], "--think"),
        (&["run", "-p", "a", "--cpu-features", "mmx"], "scalar, avx2, avx512, amx, neon, i8mm"),
        (&["debug", "logits", "--tokens", "a"], "--out"),
        (&["bench", "--sessions", "x"], "'--sessions <N,…>': write a whole number from 1 to 256"),
        (&["bench", "--ctx", "512,-1"], "--ctx"),
        (&["run", "-p", "a", "--threads", "0"], "write a whole number from 1 to 1"),
        (&["run", "-p", "a", "--temp", "warm"], "write a number, such as 0.7"),
        (&["run", "-p", "a", "--seed", "x"], "write a whole number, 0 or more"),
        (&["serve", "--port", "http"], "write a whole number from 0 to 65"),
    ];
    for (args, part) in cases {
        let ran = ds4(args);
        assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
        assert!(ran.err.contains(part) && ran.out.is_empty(), "{args:?}: {ran:?}");
    }
}
