//! Doing what a plan says: each fault begins at its time, is lifted at its end whatever happened, and is over when its parts serve again and
//! a probe has its outcome.

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use runtime::Stop;
use tokio::task::JoinSet;

use super::{
    fault::{Action, Node},
    history::{FaultSpan, History},
    inject,
    plan::{Plan, Step},
    probe::Prober,
    target::{Order, Target},
};

/// How long recovering may take when no fault is on any more; after that it counts as unhealed.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// How often it is asked whether it has.
const ASK: Duration = Duration::from_millis(150);
/// How often a leader is asked for before the fault is given up.
const LEADER_ATTEMPTS: usize = 20;

/// Who says whether commands have outcomes again.
pub(super) trait Probe: Send + Sync + 'static {
    /// Asks once. `gateway` names a part to ask through.
    fn probe(&self, gateway: Option<&str>) -> impl Future<Output = Result<(), String>> + Send;
}

/// The probes of a target.
#[derive(Debug)]
pub(super) struct Probes<T> {
    pub(super) prober: Prober,
    pub(super) target: Arc<T>,
}

impl<T: Target> Probe for Probes<T> {
    async fn probe(&self, gateway: Option<&str>) -> Result<(), String> {
        self.prober.ask(gateway.and_then(|name| self.target.doors().gateways.get(name).copied())).await
    }
}

/// Which faults are on, and when the last one was lifted: nobody has to recover while others keep it from that.
#[derive(Debug)]
struct Weather {
    on: usize,
    calm: Instant,
}

impl Weather {
    fn begin(weather: &Mutex<Self>) {
        weather.lock().unwrap_or_else(PoisonError::into_inner).on += 1;
    }

    fn lift(weather: &Mutex<Self>) {
        let mut weather = weather.lock().unwrap_or_else(PoisonError::into_inner);
        weather.on = weather.on.saturating_sub(1);
        weather.calm = Instant::now();
    }

    /// Whether nothing has been on for so long.
    fn calm_for(weather: &Mutex<Self>, limit: Duration) -> bool {
        let weather = weather.lock().unwrap_or_else(PoisonError::into_inner);
        weather.on == 0 && weather.calm.elapsed() > limit
    }
}

/// How a fault went.
#[derive(Debug, Clone)]
pub(super) struct Went {
    /// Its number.
    pub(super) fault: usize,
    /// Why it did not do what it was to do, if so.
    pub(super) trouble: Option<String>,
}

/// Does the whole plan, or as much of it as comes before `stop`; everything is lifted at the end.
pub(super) async fn execute<T: Target, P: Probe>(target: &Arc<T>, probes: &Arc<P>, plan: &Plan, history: &History, stop: &Stop) -> Vec<Went> {
    let begin = tokio::time::Instant::now();
    let weather = Arc::new(Mutex::new(Weather { on: 0, calm: Instant::now() }));
    let mut tasks = JoinSet::new();
    for (fault, step) in plan.steps.iter().cloned().enumerate() {
        tokio::select! {
            () = tokio::time::sleep_until(begin + step.start) => {}
            () = stop.cancelled() => break,
        }
        let (target, probes, history, weather) = (target.clone(), probes.clone(), history.clone(), weather.clone());
        tasks.spawn(async move { one(&*target, &*probes, &history, &weather, fault, &step).await });
    }
    tokio::select! {
        () = tokio::time::sleep_until(begin + plan.length) => {}
        () = stop.cancelled() => tasks.abort_all(),
    }
    let mut all = Vec::new();
    while let Some(went) = tasks.join_next().await {
        all.extend(went.ok());
    }
    // A task that was broken off has lifted nothing.
    if let Err(error) = target.lift_all().await {
        tracing::error!(%error, "lifting every fault");
    }
    all.sort_by_key(|went| went.fault);
    all
}

async fn one<T: Target, P: Probe>(target: &T, probes: &P, history: &History, weather: &Mutex<Weather>, fault: usize, step: &Step) -> Went {
    let mut begin = Instant::now();
    Weather::begin(weather);
    let resolved = resolve(target, &step.action).await;
    let action = resolved.as_ref().unwrap_or(&step.action);
    let named = if *action == step.action { String::new() } else { step.action.to_string() };
    let span = FaultSpan { index: fault, kind: step.kind.name(), target: action.to_string(), detail: named };
    // Until its point is reached, such a part only waits for it, and that is nothing to recover from.
    let waits = matches!(action, Action::AtPoint { .. });
    let mut guard = (!waits).then(|| history.fault(span.clone()));
    let begun = match &resolved {
        Ok(action) => start(target, history, Order { fault, action, length: step.length }).await,
        Err(error) => Err(anyhow::anyhow!("{error:#}")),
    };
    if waits {
        begin = Instant::now();
    }
    let guard = guard.take().unwrap_or_else(|| history.fault(span));
    if begun.is_ok() && lasts(action) {
        tokio::time::sleep(step.length).await;
    }
    let lifted = target.lift(fault).await;
    guard.lifted();
    Weather::lift(weather);
    let trouble = begun.err().or(lifted.err()).map(|error| format!("{error:#}"));
    let (parts, gateway) = concerned(target, action);
    let recovered = loop {
        let missing = not_serving(target, &parts).await;
        let why = match missing {
            None => match probes.probe(gateway).await {
                Ok(()) => break Ok(begin.elapsed()),
                Err(why) => why,
            },
            Some(part) => format!("{part} does not serve"),
        };
        if Weather::calm_for(weather, RECOVERY_LIMIT) {
            break Err(why);
        }
        tokio::time::sleep(ASK).await;
    };
    let shown = trouble.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
    match &recovered {
        Ok(time) => {
            eprintln!("{:3} {:<24} {action}: recovered {:.1} s after it began{shown}", fault, step.kind.name(), time.as_secs_f64());
            guard.end();
        }
        Err(why) => {
            eprintln!("{:3} {:<24} {action}: NOT RECOVERED: {why}{shown}", fault, step.kind.name());
            guard.unhealed(why);
        }
    }
    Went { fault, trouble }
}

async fn not_serving<'a, T: Target>(target: &T, parts: &'a [String]) -> Option<&'a String> {
    for part in parts {
        if !target.serves(part).await {
            return Some(part);
        }
    }
    None
}

/// Names the nodes that are named by what they lead.
async fn resolve<T: Target>(target: &T, action: &Action) -> anyhow::Result<Action> {
    let mut action = action.clone();
    let node = match &mut action {
        Action::KillNode(node) | Action::FreezeNode(node) | Action::LameDuck(node) | Action::Isolate { node, .. } => node,
        _ => return Ok(action),
    };
    let mut attempt = 0;
    loop {
        let name = match node {
            Node::Named(_) => return Ok(action),
            Node::Leader(stream) => inject::stream_leader(target.doors(), stream).await,
            Node::Meta => inject::meta_leader(target.doors()).await,
        };
        attempt += 1;
        match name {
            Ok(name) => *node = Node::Named(name),
            // An election is on: another fault's.
            Err(_) if attempt < LEADER_ATTEMPTS => tokio::time::sleep(ASK).await,
            Err(error) => return Err(error),
        }
    }
}

async fn start<T: Target>(target: &T, history: &History, order: Order<'_>) -> anyhow::Result<()> {
    let doors = target.doors();
    match order.action {
        Action::StepDownStream(stream) => inject::step_down(&doors.operator, &format!("STREAM.LEADER.STEPDOWN.{stream}")).await,
        Action::StepDownConsumer(name) => inject::step_down(&doors.operator, &format!("CONSUMER.LEADER.STEPDOWN.EVENTS.{name}")).await,
        Action::StepDownMeta => {
            let system = doors.system.as_ref().ok_or_else(|| anyhow::anyhow!("there is no system account"))?;
            inject::step_down(system, "META.LEADER.STEPDOWN").await
        }
        Action::Repeat { stream, count, seed } => inject::repeat(doors, history, stream, *count, *seed).await.map(|_| ()),
        Action::Poison { stream, count, seed } => inject::poison(doors, history, stream, *count, *seed).await.map(|_| ()),
        _ => target.begin(order).await,
    }
}

/// Whether it stays until it is lifted; any other is over when it has begun.
fn lasts(action: &Action) -> bool {
    match action {
        Action::Freeze(_)
        | Action::FreezeNode(_)
        | Action::Isolate { .. }
        | Action::Scatter
        | Action::CutOff { .. }
        | Action::CutOffGateway(_)
        | Action::Delay { .. }
        | Action::DiskFull(_) => true,
        Action::AtPoint { freeze, .. } => *freeze,
        _ => false,
    }
}

/// The parts that must serve again, and the gateway that is asked when it was hit itself.
fn concerned<'a, T: Target>(target: &T, action: &'a Action) -> (Vec<String>, Option<&'a str>) {
    let shape = target.shape();
    let parts = match action {
        Action::Kill(part)
        | Action::Freeze(part)
        | Action::CutOffGateway(part)
        | Action::Reset { part, .. }
        | Action::Delay { part, .. }
        | Action::AtPoint { part, .. }
        | Action::DiskFull(part) => vec![part.clone()],
        Action::KillNode(Node::Named(part))
        | Action::FreezeNode(Node::Named(part))
        | Action::LameDuck(Node::Named(part))
        | Action::Isolate { node: Node::Named(part), .. } => vec![part.clone()],
        Action::Roll(parts) => parts.clone(),
        Action::CutOff { role, .. } | Action::CutBytes { role, .. } => vec![role.clone()],
        Action::CutCommit { worker, .. } => vec![worker.clone()],
        Action::KillBackend => vec!["postgres".to_owned()],
        Action::Scatter | Action::StepDownMeta | Action::StepDownStream(_) => shape.nodes.clone(),
        Action::StepDownConsumer(name) => vec![name.clone()],
        _ => Vec::new(),
    };
    let gateway = match action {
        Action::Kill(part) | Action::Freeze(part) | Action::CutOffGateway(part) if shape.gateways.contains(part) => Some(part.as_str()),
        Action::CutOff { role, .. } if shape.gateways.contains(role) => Some(role.as_str()),
        _ => None,
    };
    (parts, gateway)
}
