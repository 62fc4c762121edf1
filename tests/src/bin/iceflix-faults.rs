//! `make faults`: makes faults in a cluster of three machines while people use it, and says what
//! became of each. See docs/reliability.md.

use anyhow::Context as _;
use clap::Parser;
use iceflix_tests::{
    faults::{self, Fault, Line},
    lan::Lan,
};
use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

/// Makes faults and says what they do; a table on standard output, JSON in target/faults.json.
#[derive(Debug, Parser)]
#[command(name = "iceflix-faults")]
enum Words {
    /// Say which faults there are
    List,
    /// Make faults
    Run(Run),
    /// What `run` runs on the people's machine
    #[command(hide = true)]
    Inside {
        lan: String,
        dir: PathBuf,
        #[command(flatten)]
        run: Run,
    },
}

/// How long the restart storm lasts if not said otherwise.
const STORM: Duration = Duration::from_secs(600);

/// And in `make test`.
const QUICK_STORM: Duration = Duration::from_secs(30);

/// How long the load runs before a fault: more than a hundred commands, so that their 99th percentile
/// is not just the slowest.
const BEFORE: Duration = Duration::from_secs(4);

/// And in `make test`, where nobody looks at percentiles.
const QUICK_BEFORE: Duration = Duration::from_millis(1500);

#[derive(Debug, Clone, clap::Args)]
struct Run {
    /// Which; all when none is named
    names: Vec<String>,
    /// Those of `make test` only
    #[arg(long)]
    quick: bool,
    /// How long the restart storm lasts: 600 if not said, with `--quick` 30
    #[arg(long, value_name = "SECONDS")]
    storm: Option<u64>,
    /// Where the results are written, as JSON
    #[arg(long, value_name = "FILE", default_value = "target/faults.json")]
    json: PathBuf,
}

impl Run {
    fn chosen(&self) -> anyhow::Result<Vec<Fault>> {
        let storm = match self.storm {
            Some(seconds) => Duration::from_secs(seconds),
            None if self.quick => QUICK_STORM,
            None => STORM,
        };
        let mut all = faults::all(storm);
        let unknown = self
            .names
            .iter()
            .find(|name| all.iter().all(|fault| fault.name != **name));
        if let Some(name) = unknown {
            anyhow::bail!("there is no fault called {name}; `iceflix-faults list` names them");
        }
        all.retain(|fault| {
            let named = self.names.iter().any(|name| *name == fault.name);
            named || self.names.is_empty() && (fault.quick || !self.quick)
        });
        Ok(all)
    }

    /// How long people use the cluster before each fault.
    fn before(&self) -> Duration {
        if self.quick { QUICK_BEFORE } else { BEFORE }
    }
}

fn main() -> ExitCode {
    let done = match Words::parse() {
        Words::List => {
            list();
            Ok(true)
        }
        Words::Run(run) => outside(&run),
        Words::Inside { lan, dir, run } => inside(&lan, &dir, &run),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn list() {
    for fault in faults::all(STORM) {
        let mark = if fault.quick { "*" } else { " " };
        println!("{mark} {:20} {}", fault.name, fault.about);
    }
    println!("(* also in `make test`)");
}

/// Makes the machines, runs the rest on the people's, and removes everything.
fn outside(run: &Run) -> anyhow::Result<bool> {
    run.chosen()?;
    let Some(lan) = Lan::new("iff", faults::machines()) else {
        println!("SKIPPED: there are no network namespaces here; no fault was made");
        return Ok(true);
    };
    let dir = tempfile::tempdir()?;
    let own = std::env::current_exe()?;
    let mut command = lan.on(faults::machines(), &own);
    command.arg("inside").arg(lan.name()).arg(dir.path());
    command
        .args(&run.names)
        .args(run.quick.then_some("--quick"));
    if let Some(seconds) = run.storm {
        command.args(["--storm", &seconds.to_string()]);
    }
    command.arg("--json").arg(&run.json);
    let runtime = tokio::runtime::Runtime::new()?;
    let ended = runtime.block_on(async {
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            status = child.wait() => Ok(status?),
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
            _ = terminate.recv() => Err(anyhow::anyhow!("interrupted")),
        }
    });
    // Whatever runs there yet was started by this run.
    end_all(&lan);
    let passed = ended?.success();
    if !passed {
        println!(
            "the machines' states and logs are in {}",
            dir.keep().display()
        );
    }
    Ok(passed)
}

/// Kills what runs on the machines, whoever started it.
fn end_all(lan: &Lan) {
    for machine in 1..=faults::machines() {
        let space = format!("{}-{machine}", lan.name());
        let Ok(listed) = Command::new("ip").args(["netns", "pids", &space]).output() else {
            continue;
        };
        let pids = String::from_utf8_lossy(&listed.stdout);
        for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            // It may have ended meanwhile.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Makes the faults.
fn inside(lan: &str, dir: &Path, run: &Run) -> anyhow::Result<bool> {
    let chosen = run.chosen()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let mut lines: Vec<Line> = Vec::new();
    let result = runtime.block_on(faults::run(lan, dir, &chosen, run.before(), |line| {
        let passed = if line.passed() { "ok" } else { "FAILED" };
        eprintln!(
            "{}: {passed} ({:.0} s)",
            line.fault,
            line.took.as_secs_f64()
        );
        lines.push(line);
    }));
    println!("{}", faults::table(&lines));
    if let Some(parent) = run.json.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(&run.json, serde_json::to_string_pretty(&lines)?)
        .with_context(|| format!("cannot write {}", run.json.display()))?;
    result?;
    Ok(lines.iter().all(Line::passed))
}
