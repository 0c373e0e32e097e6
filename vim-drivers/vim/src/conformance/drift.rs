//! Cases of what happens behind a driver's back, of captures, and of links between sites.

use std::{collections::BTreeSet, time::Duration};

use futures::future::{Either, join, select};

use super::{
    Fixture, Instance, clear, ensure, ground, image, key, network, nothing_left, observe, pid, plain,
    plainly, refused, remove, start,
};
use crate::{
    CaptureSpec, Changed, Disposition, Interconnect, Kind, NetworkSpec, ObjectKey, Observed, ProcessState,
    Scope, Spec, Stray, fake::Sleep, pcapng,
};

/// Most ways of changing things behind a driver's back that are tried.
const MAX_WAYS: usize = 64;
/// How long a change may take to be noticed; nothing is waited for as long.
const NOTICED: Duration = Duration::from_secs(10);
/// How long nothing is to be noticed.
const QUIET: Duration = Duration::from_millis(300);
/// A capture of the suite's, ms, and how often a frame is sent meanwhile.
const CAPTURE_MS: u32 = 600;
const SEND_EVERY: Duration = Duration::from_millis(20);
const SENT: u32 = 25;
/// Segments of links that only the VIM's word is taken for.
const SEGMENTS: [u16; 2] = [3907, 3908];

/// A frame for everybody on the link that nobody answers: an EtherType for local experiments (IEEE 802).
fn frame(from: &Instance, mark: &str, number: u32) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend(from.mac.0);
    bytes.extend([0x88, 0xb5]);
    bytes.extend(format!("{mark} {number:>6}").bytes());
    bytes.resize(200, 0);
    bytes
}

fn is_marked(bytes: &[u8], mark: &str) -> bool {
    bytes.get(12..14) == Some(&[0x88, 0xb5])
        && bytes.get(14..).is_some_and(|b| b.starts_with(mark.as_bytes()))
}

/// Captures at one instance while another one sends.
async fn capture<F: Fixture>(
    at: &F,
    key: &ObjectKey,
    spec: CaptureSpec,
    from: (&F, &Instance),
    mark: &str,
) -> Result<crate::Capture, String> {
    let send = async {
        for number in 1..=SENT {
            Sleep::new(SEND_EVERY).await;
            from.0.emit(&from.1.key, 0, &frame(from.1, mark, number)).await?;
        }
        Ok(())
    };
    from.0.emit(&from.1.key, 0, &frame(from.1, mark, 0)).await?;
    let (captured, sent): (_, Result<(), String>) = join(at.control().capture(key, &spec), send).await;
    sent?;
    captured.map_err(|e| format!("{} {e}", e.code))
}

pub(super) async fn a_capture_has_what_passes_in_order_and_within_its_bound<F: Fixture>(
    f: &mut F,
) -> Result<(), String> {
    let instance = start(f, "capture").await?;
    let whole = CaptureSpec { duration_ms: CAPTURE_MS, snap_bytes: 128, max_bytes: 1 << 20 };
    let can = f.driver().capabilities().await.map_err(|e| e.to_string())?.capture;
    if !can {
        refused(f.control().capture(&instance.key, &whole).await, Disposition::Compensate, "a capture")?;
        clear(f, "capture").await?;
        return nothing_left(f).await;
    }
    let before = pid(f, &instance.key).await?;
    let captured = capture(f, &instance.key, whole, (f, &instance), "mark").await?;
    let read = pcapng::read(&captured.pcapng).map_err(|e| e.to_string())?;
    check!(read.interfaces == ["eth"], "interfaces {:?}", read.interfaces);
    check!(
        captured.frames == read.frames.len() as u64,
        "{} frames, {} in it",
        captured.frames,
        read.frames.len()
    );
    check!(read.frames.is_sorted_by_key(|f| f.at_ns), "not in order");
    let marked: Vec<_> = read.frames.iter().filter(|f| is_marked(&f.bytes, "mark")).collect();
    check!(!marked.is_empty(), "none of the frames sent is among {} captured", read.frames.len());
    check!(marked.is_sorted_by_key(|f| &f.bytes), "frames sent one after the other are not in their order");
    let cut = |f: &&pcapng::Frame| f.bytes.len() == 128 && f.wire_bytes == 200;
    check!(marked.iter().all(cut), "frames of 200 bytes, 128 to be kept: {:?}", marked[0]);
    let small = CaptureSpec { max_bytes: 700, ..whole };
    let captured = capture(f, &instance.key, small, (f, &instance), "small").await?;
    check!(captured.pcapng.len() <= 700, "{} bytes of at most 700", captured.pcapng.len());
    check!(pcapng::read(&captured.pcapng).is_ok(), "a capture within its bound does not read back");
    let seen = observe(f, &Scope::All).await?;
    check!(plainly(&seen, &instance.key) == Some(instance.expected()), "disturbed: {:?}", seen.objects);
    check!(pid(f, &instance.key).await? == before, "the process is another");
    refused(
        f.control().capture(&key("capture/none")?, &whole).await,
        Disposition::Compensate,
        "of what is absent",
    )?;
    clear(f, "capture").await?;
    nothing_left(f).await
}

pub(super) async fn every_change_behind_its_back_is_seen_and_put_right<F: Fixture>(
    f: &mut F,
) -> Result<(), String> {
    for way in 0..MAX_WAYS {
        let mut instance = start(f, "drift").await?;
        let before = observe(f, &Scope::All).await?;
        check!(before.extra.is_empty(), "strays of a whole service: {:?}", before.extra);
        let Some(what) = f.alter(&instance.key, &key("drift/net")?, &key("drift/image")?, way).await? else {
            check!(way > 0, "the fixture changes nothing");
            clear(f, "drift").await?;
            return nothing_left(f).await;
        };
        let after = observe(f, &Scope::All).await?;
        check!(before != after, "{what}: not seen, {:?}", after.objects);
        for stray in &after.extra {
            remove(f, &stray.key, stray.kind).await.map_err(|e| format!("{what}: {e}"))?;
        }
        ensure(f, &key("drift/image")?, &image(f.images()[0])).await.map_err(|e| format!("{what}: {e}"))?;
        ensure(f, &key("drift/net")?, &network(1500)).await.map_err(|e| format!("{what}: {e}"))?;
        instance.generation = 9;
        let again = ensure(f, &instance.key, &instance.spec()?).await.map_err(|e| format!("{what}: {e}"))?;
        check!(plain(&again) == instance.expected(), "{what}: put right, and yet {again:?}");
        let healed = observe(f, &Scope::All).await?;
        check!(healed.extra.is_empty() && healed.objects.len() == 3, "{what}: put right, and yet {healed:?}");
        clear(f, "drift").await?;
        nothing_left(f).await.map_err(|e| format!("{what}: {e}"))?;
    }
    Err(format!("more than {MAX_WAYS} ways"))
}

pub(super) async fn a_dead_instance_says_so_whether_or_not_it_is_cut<F: Fixture>(
    f: &mut F,
) -> Result<(), String> {
    let instance = start(f, "dead").await?;
    f.control().isolate(&instance.key, true).await.map_err(|e| e.to_string())?;
    f.crash(&instance.key).await?;
    let seen = observe(f, &Scope::All).await?;
    let found = seen.objects.get(&instance.key);
    let dead = matches!(found, Some(Observed::Compute(c)) if c.process == ProcessState::Gone);
    check!(dead, "{found:?}");
    clear(f, "dead").await?;
    nothing_left(f).await
}

pub(super) async fn strays_are_found_and_removed_by_their_keys<F: Fixture>(f: &mut F) -> Result<(), String> {
    f.make_foreign().await?;
    let instance = start(f, "stays").await?;
    let before = (observe(f, &Scope::All).await?, pid(f, &instance.key).await?);
    check!(before.0.extra.is_empty(), "strays of a whole service: {:?}", before.0.extra);
    for way in 0..MAX_WAYS {
        let Some(what) = f.make_stray(way).await? else {
            check!(way > 0, "the fixture makes no strays");
            break;
        };
        let found = observe(f, &Scope::All).await?;
        check!(!found.extra.is_empty(), "{what}: not found");
        check!(found.objects == before.0.objects, "{what}: among the objects {:?}", found.objects);
        let said = |s: &Stray| !s.what.is_empty() && !s.place.is_empty();
        check!(found.extra.iter().all(said), "{what}: does not say what and where: {:?}", found.extra);
        let keys: BTreeSet<(ObjectKey, Kind)> = found.extra.iter().map(|s| (s.key.clone(), s.kind)).collect();
        for time in ["once", "twice"] {
            for (key, kind) in &keys {
                remove(f, key, *kind).await.map_err(|e| format!("{what}, {key} removed {time}: {e}"))?;
            }
        }
        let after = (observe(f, &Scope::All).await?, pid(f, &instance.key).await?);
        check!(after == before, "{what}: removed, and before {before:?}, after {after:?}");
    }
    check!(f.foreign_intact().await?, "what is not ours was changed");
    clear(f, "stays").await?;
    nothing_left(f).await
}

pub(super) async fn an_end_is_noticed_and_our_own_doing_is_not<F: Fixture>(f: &mut F) -> Result<(), String> {
    let instance = start(f, "end").await?;
    let quiet = |after: u64| {
        let changed = f.driver().changed(after);
        async move {
            match select(changed, Box::pin(Sleep::new(QUIET))).await {
                Either::Left((changed, _)) => Err(format!("noticed {changed:?}, nothing happened by itself")),
                Either::Right(_) => Ok(()),
            }
        }
    };
    quiet(0).await?;
    f.crash(&instance.key).await?;
    let noticed = match select(f.driver().changed(0), Box::pin(Sleep::new(NOTICED))).await {
        Either::Left((changed, _)) => changed,
        Either::Right(_) => Changed::default(),
    };
    check!(noticed.count > 0, "its end is not noticed");
    let named = noticed.keys.is_empty() || noticed.keys.contains(&instance.key);
    check!(named, "another one's end is noticed: {noticed:?}");
    ensure(f, &instance.key, &instance.spec()?).await?;
    remove(f, &instance.key, Kind::Compute).await?;
    match select(f.driver().changed(noticed.count), Box::pin(Sleep::new(QUIET))).await {
        Either::Left((changed, _)) => return Err(format!("our own removal is noticed: {changed:?}")),
        Either::Right(_) => {}
    }
    clear(f, "end").await?;
    nothing_left(f).await
}

fn joined(segment: u16) -> Spec {
    let interconnect = Some(Interconnect { wan: "wan".into(), segment });
    Spec::Network(NetworkSpec { interconnect, ..NetworkSpec::new("link", 1500) })
}

/// A service whose link is a part of this segment.
async fn start_joined<F: Fixture>(f: &F, service: &str, segment: u16) -> Result<Instance, String> {
    ground(f, service).await?;
    let made = ensure(f, &key(&format!("{service}/net"))?, &joined(segment)).await?;
    let expected = Observed::Network {
        up: true,
        mtu: 1500,
        interconnect: Some(Interconnect { wan: "wan".into(), segment }),
    };
    check!(made == expected, "joined {made:?}");
    let instance = Instance::new(f, service, "vdu")?;
    ensure(f, &instance.key, &instance.spec()?).await?;
    Ok(instance)
}

async fn passes<F: Fixture>(to: (&F, &Instance), from: (&F, &Instance), mark: &str) -> Result<bool, String> {
    let spec = CaptureSpec { duration_ms: CAPTURE_MS, snap_bytes: 128, max_bytes: 1 << 20 };
    let captured = capture(to.0, &to.1.key, spec, from, mark).await?;
    let read = pcapng::read(&captured.pcapng).map_err(|e| e.to_string())?;
    Ok(read.frames.iter().any(|f| is_marked(&f.bytes, mark)))
}

pub(super) async fn joined_links_carry_frames_between_sites_and_nothing_else_does<F: Fixture>(
    f: &mut F,
) -> Result<(), String> {
    let can = f.driver().capabilities().await.map_err(|e| e.to_string())?;
    if !can.inter_site_links {
        let result = f.driver().ensure(&key("wide/net")?, &joined(7)).await;
        refused(result, Disposition::Elsewhere, "a joined link")?;
        return nothing_left(f).await;
    }
    if !f.driver().capabilities().await.map_err(|e| e.to_string())?.capture {
        return joined_links_are_the_segments_asked_for(f).await;
    }
    let Some(mut other) = f.other_site().await? else { return Err("no other site to join to".into()) };
    let result = between(f, &other).await;
    for service in ["wide", "apart"] {
        clear(f, service).await?;
        clear(&other, service).await?;
    }
    let left = nothing_left(&mut other).await;
    other.close().await?;
    result.and(left)?;
    nothing_left(f).await
}

/// What can be said of joined links without seeing frames.
async fn joined_links_are_the_segments_asked_for<F: Fixture>(f: &mut F) -> Result<(), String> {
    let link = key("wide/net")?;
    let segment = |segment: Option<u16>| {
        let interconnect = segment.map(|segment| Interconnect { wan: "wan".into(), segment });
        Observed::Network { up: true, mtu: 1500, interconnect }
    };
    start_joined(f, "wide", SEGMENTS[0]).await?;
    let seen = observe(f, &Scope::All).await?;
    check!(seen.objects.get(&link) == Some(&segment(Some(SEGMENTS[0]))), "observed {:?}", seen.objects);
    let twice = f.driver().ensure(&key("apart/net")?, &joined(SEGMENTS[0])).await;
    refused(twice, Disposition::Compensate, "a segment twice")?;
    clear(f, "wide").await?;
    ensure(f, &link, &joined(SEGMENTS[0])).await?;
    let moved = ensure(f, &link, &joined(SEGMENTS[1])).await?;
    check!(moved == segment(Some(SEGMENTS[1])), "moved: {moved:?}");
    let alone = ensure(f, &link, &network(1500)).await?;
    check!(alone == segment(None), "alone: {alone:?}");
    clear(f, "wide").await?;
    clear(f, "apart").await?;
    nothing_left(f).await
}

async fn between<F: Fixture>(one: &F, two: &F) -> Result<(), String> {
    let here = start_joined(one, "wide", 7).await?;
    let there = start_joined(two, "wide", 7).await?;
    let apart = start_joined(two, "apart", 8).await?;
    check!(passes((two, &there), (one, &here), "east").await?, "nothing passes to the other site");
    check!(passes((one, &here), (two, &there), "west").await?, "nothing passes from the other site");
    check!(!passes((two, &apart), (one, &here), "stray").await?, "a frame is in another segment");
    let again = ensure(one, &key("wide/net")?, &joined(7)).await?;
    check!(
        observe(one, &Scope::All).await?.objects.get(&key("wide/net")?) == Some(&again),
        "again: {again:?}"
    );
    refused(
        one.driver().ensure(&key("apart/net")?, &joined(7)).await,
        Disposition::Compensate,
        "a segment twice",
    )?;
    // Another segment, and then none: the old one is left.
    ensure(one, &key("wide/net")?, &joined(8)).await?;
    check!(!passes((two, &there), (one, &here), "moved").await?, "it is in its old segment still");
    check!(passes((two, &apart), (one, &here), "new").await?, "it is not in its new segment");
    let alone = ensure(one, &key("wide/net")?, &network(1500)).await?;
    check!(alone == Observed::Network { up: true, mtu: 1500, interconnect: None }, "alone: {alone:?}");
    check!(!passes((two, &apart), (one, &here), "alone").await?, "it is joined still");
    Ok(())
}
