//! A run from its seed to its verdict.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use runtime::{Config, Stop};
use tokio::runtime::Runtime;

use super::{
    On, Options,
    check::{self, Verdict},
    collect::{self, Watch},
    execute::{Probes, Went, execute},
    history::History,
    kind::Kind,
    load::{Load, LoadOptions},
    plan::{self, Pace, Plan, SCENARIOS, Shape},
    probe::Prober,
    report,
    target::{Target, compose::Containers, processes::Processes},
};

/// Load without faults before them: what it does then is what it must do again afterwards.
const QUIET: Duration = Duration::from_secs(12);
/// Load without faults after them.
const HEAL: Duration = Duration::from_secs(32);
/// How long everything may take to arrive everywhere when the load has ended.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);

/// Runs and reports. Exit code 0: nothing was found, everything healed; 1 otherwise.
///
/// # Errors
/// The cluster does not start, or what became of it cannot be read.
pub fn run(config: Config, options: &Options) -> anyhow::Result<ExitCode> {
    #[cfg(feature = "planted")]
    if let Some(name) = &options.planted {
        return super::defect::run(&config, name);
    }
    let seed = options.seed.unwrap_or_else(rand::random);
    let plan = make_plan(options, seed)?;
    if options.list {
        list(plan.as_ref(), options.target);
        return Ok(ExitCode::SUCCESS);
    }
    let plan = plan.context("say --quick, --minutes N or --scenario NAME (--list shows them)")?;
    let begin = Instant::now();
    let out = out(&config, options, seed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let stop = Stop::new();
    runtime.block_on(async { crate::signals::watch_signals(&stop) })?;
    eprintln!("seed {seed}: {} faults in {:.0} s; {}", plan.steps.len(), plan.length.as_secs_f64(), out.display());
    for kind in Kind::ALL {
        if let Err(why) = possible(options.target, *kind) {
            eprintln!("skipped: {kind}: {why}");
        }
    }
    fs::write(out.join("plan.txt"), plan.steps.iter().map(|step| format!("{step}\n")).collect::<String>())?;

    let one = One { begin, plan: &plan, options, out: &out, stop: &stop };
    let result = match options.target {
        On::Processes => {
            Processes::start(&runtime, &config, &plan, &stop).and_then(|target| one.on(runtime, target, |target, to| keep_logs(&target.logs(), to)))
        }
        On::Compose => Containers::start(&runtime, &plan, &stop).and_then(|target| one.on(runtime, target, Containers::keep_logs)),
    };
    let Some((verdict, went)) = result? else { bail!("stopped") };
    if options.json {
        println!("{}", report::json(&verdict));
    } else {
        print!("{}", fs::read_to_string(out.join(report::REPORT))?);
        for (index, why) in went.iter().filter_map(|one| Some((one.fault, one.trouble.as_ref()?))) {
            println!("fault {index} ({}) did less than it should: {why}", plan.steps[index].kind);
        }
        println!("{:.0} s in all; everything in {}", begin.elapsed().as_secs_f64(), out.display());
    }
    Ok(if verdict.acquits() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One run.
struct One<'a> {
    begin: Instant,
    plan: &'a Plan,
    options: &'a Options,
    out: &'a Path,
    stop: &'a Stop,
}

impl One<'_> {
    /// Runs on a target that has started; keeps what its parts wrote unless nothing was found, and ends it.
    fn on<T: Target>(&self, runtime: Runtime, target: T, keep: impl Fn(&T, &Path)) -> anyhow::Result<Option<(Verdict, Vec<Went>)>> {
        eprintln!("the cluster is ready after {:.0} s", self.begin.elapsed().as_secs_f64());
        let target = Arc::new(target);
        let result = runtime.block_on(drive(&target, self.plan, self.options, self.out, self.stop));
        if !matches!(&result, Ok(Some((verdict, _))) if verdict.acquits()) {
            keep(&target, &self.out.join("logs"));
        }
        runtime.shutdown_timeout(Duration::from_secs(5));
        drop(target);
        result
    }
}

/// Whether a kind can be done to a target.
fn possible(target: On, kind: Kind) -> Result<(), String> {
    match target {
        On::Processes => Processes::possible(kind),
        On::Compose => Containers::possible(kind),
    }
}

/// None when the command line asks for no plan.
fn make_plan(options: &Options, seed: u64) -> anyhow::Result<Option<Plan>> {
    let shape = Shape::default();
    if let Some(name) = &options.scenario {
        let known: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
        let scenario = scenario.with_context(|| format!("there is no scenario {name}; there are {}", known.join(", ")))?;
        let mut plan = plan::scripted(scenario, seed, &shape);
        plan.steps.retain(|step| possible(options.target, step.kind).is_ok());
        return Ok(Some(plan));
    }
    if let Some(unknown) = options.only.iter().find(|only| !Kind::ALL.iter().any(|kind| kind.name() == only.as_str())) {
        bail!("there is no kind {unknown} (--list shows them)");
    }
    let wanted = |kind: Kind| options.only.is_empty() || options.only.iter().any(|only| only == kind.name());
    let able = |kind: Kind| wanted(kind) && possible(options.target, kind).is_ok();
    Ok(match (options.quick, options.minutes) {
        // Disks are small and their size cannot be had without root: a quick run is the same for everybody.
        (true, _) => Some(plan::random(seed, Pace::Quick, &shape, &|kind| able(kind) && !kind.needs_root())),
        (false, Some(minutes)) => Some(plan::random(seed, Pace::Minutes(minutes), &shape, &able)),
        (false, None) => None,
    })
}

fn list(plan: Option<&Plan>, target: On) {
    match plan {
        Some(plan) => {
            println!("seed {}, {:.0} s", plan.seed, plan.length.as_secs_f64());
            plan.steps.iter().for_each(|step| println!("{step}"));
        }
        None => {
            Kind::ALL.iter().for_each(|kind| println!("{:<26}{}", kind.name(), possible(target, *kind).err().unwrap_or_default()));
            SCENARIOS.iter().for_each(|scenario| println!("--scenario {:<15}{}", scenario.name, scenario.about));
        }
    }
}

fn out(config: &Config, options: &Options, seed: u64) -> anyhow::Result<PathBuf> {
    let wanted = options.out.clone().unwrap_or_else(|| config.data.join("chaos").join(seed.to_string()));
    fs::create_dir_all(&wanted).with_context(|| format!("making {}", wanted.display()))?;
    Ok(wanted.canonicalize()?)
}

/// Load, faults, quiet, facts, verdict. None when it was stopped.
async fn drive<T: Target>(target: &Arc<T>, plan: &Plan, options: &Options, out: &Path, stop: &Stop) -> anyhow::Result<Option<(Verdict, Vec<Went>)>> {
    let history = History::to_file(&out.join(report::HISTORY))?;
    let reach = target.reach();
    let prober = Prober::start(reach, target.doors()).await?;
    let probes = Arc::new(Probes { prober, target: target.clone() });
    let watch = Watch::start(reach, &history);
    let load = LoadOptions { rate_per_second: options.rate, seed: plan.seed, ..LoadOptions::default() };
    let load = Load::start(reach, &history, load).await?;
    let rest = async |phase: &str, length: Duration| {
        history.phase(phase);
        tokio::select! {
            () = tokio::time::sleep(length) => false,
            () = stop.cancelled() => true,
        }
    };
    if rest("quiet", QUIET).await {
        return Ok(None);
    }
    history.phase("chaos");
    let went = execute(target, &probes, plan, &history, stop).await;
    if stop.is_cancelled() || rest("heal", HEAL).await {
        return Ok(None);
    }
    history.phase("drain");
    let draining = async {
        load.stop().await?;
        eprintln!("the load has ended; collecting what is the case");
        collect::collect(reach, &history, Some(watch), DRAIN_LIMIT).await
    };
    let facts = tokio::select! {
        facts = draining => facts?,
        () = stop.cancelled() => return Ok(None),
    };
    history.flush()?;
    let records = history.records();
    let verdict = check::verdict(&records, &facts, plan.seed, history.is_full());
    report::write(out, &records, &facts, &verdict, &about(options))?;
    Ok(Some((verdict, went)))
}

/// How the run was started, for the report.
fn about(options: &Options) -> String {
    let what = match (&options.scenario, options.minutes) {
        (Some(name), _) => format!("--scenario {name}"),
        (None, Some(minutes)) => format!("--minutes {minutes}"),
        (None, None) => "--quick".to_owned(),
    };
    let only: String = options.only.iter().map(|kind| format!(" --only {kind}")).collect();
    format!("chancery chaos {what}{only}, processes")
}

fn keep_logs(from: &Path, to: &Path) {
    let _ = fs::create_dir_all(to);
    for entry in fs::read_dir(from).into_iter().flatten().filter_map(Result::ok) {
        let _ = fs::copy(entry.path(), to.join(entry.file_name()));
    }
}
