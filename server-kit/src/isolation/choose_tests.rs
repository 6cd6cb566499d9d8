//! The ladder in places that were made up.

use super::*;

fn wish() -> Wish {
    Wish {
        places: Places { work: "/workspace".into(), socket: Some("/run/k".into()), ..Places::default() },
        abi: 7,
        over_modes: true,
        no_network: false,
        bandwidth: false,
        at_most: Vec::new(),
        keeps_capabilities: false,
        accelerators: Vec::new(),
        device_groups: Err("read-only".into()),
    }
}

fn held(chosen: &Chosen, axis: Axis) -> &Held {
    chosen.held.iter().find(|held| held.axis == axis).expect("each axis")
}

fn told(chosen: &Chosen, axis: Axis) -> (&'static str, IsolationLevel) {
    let held = held(chosen, axis);
    (held.mechanism, held.level)
}

fn no(what: &str) -> Result<(), String> {
    Err(format!("{what} is refused here"))
}

/// A container of Kubernetes as it comes: not root, no namespaces.
fn restricted(fences: &Fences, own_id: bool) -> Result<(), String> {
    match fences {
        _ if fences.user_namespace => no("a user namespace"),
        _ if fences.view || fences.network == NetworkFence::Namespace => no("a mount namespace"),
        _ if own_id => no("chown"),
        _ => Ok(()),
    }
}

#[test]
fn where_everything_holds_every_level_is_hard() {
    let wish = Wish { no_network: true, ..wish() };
    let chosen = choose(&wish, |_, _| Ok(()));
    for (axis, mechanism) in [
        (Axis::Files, "mount-namespace"),
        (Axis::Devices, "landlock"),
        (Axis::Network, "namespace"),
        (Axis::Privileges, "own-uid"),
    ] {
        assert_eq!(told(&chosen, axis), (mechanism, Hard));
    }
    assert!(!chosen.fences.user_namespace);
    let shared = chosen.held_shared.iter().find(|held| held.axis == Axis::Files).expect("files");
    assert_eq!(shared.level, Nothing);
}

#[test]
fn an_ordinary_pod_has_landlock_and_seccomp_and_is_told_what_would_give_more() {
    let chosen = choose(&wish(), restricted);
    assert_eq!(told(&chosen, Axis::Files), ("landlock", Soft));
    assert_eq!(told(&chosen, Axis::Devices), ("landlock", Hard));
    assert_eq!(told(&chosen, Axis::Network), ("shared", Nothing));
    assert_eq!(told(&chosen, Axis::Privileges), ("seccomp", Soft));
    let files = held(&chosen, Axis::Files).reasons.join("; ");
    assert!(
        files.starts_with("mount-namespace: a user namespace is refused here (hostUsers false"),
        "{files}"
    );
    assert!(!files.contains("a mount namespace is refused"), "one reason for one rung: {files}");
    let privileges = held(&chosen, Axis::Privileges).reasons.join("; ");
    assert!(
        privileges.contains("own-uid: chown is refused here (securityContext.runAsUser 0"),
        "{privileges}"
    );
}

#[test]
fn an_unprivileged_server_takes_the_way_of_a_user_namespace() {
    let place = |fences: &Fences, own_id: bool| match fences {
        _ if (fences.view || fences.network == NetworkFence::Namespace) && !fences.user_namespace => {
            no("a mount namespace")
        }
        _ if own_id => no("chown"),
        _ => Ok(()),
    };
    let chosen = choose(&Wish { no_network: true, ..wish() }, place);
    assert!(chosen.fences.user_namespace && chosen.fences.view && !chosen.fences.own_ids);
    assert_eq!(told(&chosen, Axis::Files), ("mount-namespace", Hard));
    assert_eq!(told(&chosen, Axis::Network), ("namespace", Hard));
    assert_eq!(held(&chosen, Axis::Network).reasons, [] as [String; 0]);
}

#[test]
fn ids_are_worth_more_than_a_user_namespace() {
    let place = |fences: &Fences, _| if fences.view { no("a mount namespace") } else { Ok(()) };
    let chosen = choose(&wish(), place);
    assert!(chosen.fences.own_ids && !chosen.fences.user_namespace);
    assert_eq!(told(&chosen, Axis::Files), ("landlock", Hard));
    let reasons = held(&chosen, Axis::Files).reasons.join("; ");
    assert!(!reasons.contains("mount-namespace"), "another way to the same is no reason: {reasons}");
}

#[test]
fn without_network_namespaces_sockets_are_refused_and_then_tcp() {
    let wish = Wish { no_network: true, ..wish() };
    let chosen = choose(&wish, restricted);
    assert_eq!(told(&chosen, Axis::Network), ("seccomp", Soft));
    let place = |fences: &Fences, own_id: bool| match fences.network {
        NetworkFence::Sockets => no("seccomp"),
        _ => restricted(fences, own_id),
    };
    assert_eq!(told(&choose(&wish, place), Axis::Network), ("landlock-tcp", Soft));
    let old = choose(&Wish { abi: 2, ..wish }, place);
    assert_eq!(told(&old, Axis::Network), ("shared", Nothing));
}

#[test]
fn an_old_kernels_landlock_says_what_it_cannot_refuse() {
    let chosen = choose(&Wish { abi: 2, ..wish() }, restricted);
    let reasons = held(&chosen, Axis::Files).reasons.join("; ");
    assert!(reasons.contains("Landlock ABI 2: files that are only readable can be truncated"), "{reasons}");
    assert!(!reasons.contains("moved"), "{reasons}");
    let none = choose(&Wish { abi: 0, ..wish() }, restricted);
    assert_eq!(told(&none, Axis::Files), ("directory", Nothing));
    assert_eq!(told(&none, Axis::Devices), ("variables", Nothing));
    assert!(held(&none, Axis::Files).reasons.join("; ").contains("5.13"));
}

#[test]
fn accelerators_that_all_may_use_are_named() {
    let wish = Wish { accelerators: vec!["nvidia0".into(), "nvidiactl".into()], ..wish() };
    let chosen = choose(&wish, restricted);
    assert_eq!(told(&chosen, Axis::Devices), ("landlock", Soft));
    assert!(
        held(&chosen, Axis::Devices).reasons.join("; ").contains("open to every Run: nvidia0, nvidiactl")
    );
}

#[test]
fn groups_hold_devices_where_landlock_does_not() {
    let groups = Wish { device_groups: Ok(()), ..wish() };
    assert_eq!(told(&choose(&groups, restricted), Axis::Devices), ("landlock", Hard));
    let old = Wish { abi: 0, ..groups.clone() };
    let chosen = choose(&old, restricted);
    assert!(chosen.device_groups);
    assert_eq!(told(&chosen, Axis::Devices), ("cgroup", Soft));
    assert!(held(&chosen, Axis::Devices).reasons.join("; ").contains("the kit's control groups itself"));
    let ids = choose(&old, |fences, _| if fences.view { no("a mount namespace") } else { Ok(()) });
    assert_eq!(told(&ids, Axis::Devices), ("cgroup", Hard));
    let at_most = vec!["devices=variables".parse().expect("parses")];
    let chosen = choose(&Wish { at_most, ..groups }, restricted);
    assert_eq!((told(&chosen, Axis::Devices), chosen.device_groups), (("variables", Nothing), false));
}

#[test]
fn the_kit_is_out_of_reach_of_ids_that_are_not_its_own_and_of_landlock_where_modes_do_not_matter() {
    let ids = choose(&Wish { over_modes: false, ..wish() }, |_, _| Ok(()));
    assert!(ids.fences.own_ids);
    assert_eq!(ids.guards_kit, [true, false], "without a folder of its own a Run has the server's id");
    let old = choose(&Wish { abi: 2, ..wish() }, |_, _| Ok(()));
    assert_eq!(old.guards_kit, [true, false], "Landlock before ABI 6 lets signals through");
    for (over_modes, abi, guards) in [(true, 7, true), (false, 7, false), (true, 5, false)] {
        let chosen = choose(&Wish { over_modes, abi, ..wish() }, restricted);
        assert_eq!((chosen.fences.own_ids, chosen.guards_kit), (false, [guards; 2]), "{over_modes} {abi}");
    }
}

#[test]
fn bandwidth_that_is_not_held_is_told_so() {
    let chosen = choose(&Wish { bandwidth: true, ..wish() }, restricted);
    let reasons = held(&chosen, Axis::Network).reasons.join("; ");
    assert!(reasons.contains("kruntimes.io/network-bandwidth is accounted only"), "{reasons}");
}

#[test]
fn what_would_give_more_is_told_for_what_is_not_hard() {
    let chosen = choose(&wish(), restricted);
    assert_eq!(held(&chosen, Axis::Files).remedies, [FOR_NAMESPACES]);
    assert_eq!(held(&chosen, Axis::Privileges).remedies, [FOR_IDS]);
    assert_eq!(held(&chosen, Axis::Network).remedies, [FOR_NO_NETWORK]);
    assert!(held(&chosen, Axis::Devices).remedies.is_empty(), "it is hard");
    let none = choose(&Wish { no_network: true, ..wish() }, restricted);
    assert_eq!(held(&none, Axis::Network).remedies, [FOR_NAMESPACES]);
}

#[test]
fn an_axis_begins_where_it_is_told_to() {
    let at_most = ["files=landlock", "privileges=seccomp", "devices=variables"];
    let at_most = at_most.map(|text| text.parse().expect("parses")).to_vec();
    let chosen = choose(&Wish { at_most, ..wish() }, |_, _| Ok(()));
    assert_eq!(told(&chosen, Axis::Files), ("landlock", Soft));
    assert_eq!(told(&chosen, Axis::Privileges), ("seccomp", Soft));
    assert_eq!(told(&chosen, Axis::Devices), ("variables", Nothing));
    let reasons = held(&chosen, Axis::Files).reasons.join("; ");
    assert!(reasons.contains("mount-namespace: not wanted: --isolation files=landlock"), "{reasons}");
}

#[test]
fn capabilities_that_stay_are_no_level_at_all() {
    let place = |fences: &Fences, own_id: bool| restricted(fences, own_id);
    let chosen = choose(&Wish { keeps_capabilities: true, ..wish() }, place);
    assert_eq!(told(&chosen, Axis::Privileges), ("seccomp", Nothing));
    assert!(held(&chosen, Axis::Privileges).reasons.join("; ").contains("SETPCAP"));
}
