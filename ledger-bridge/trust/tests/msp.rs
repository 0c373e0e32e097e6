//! Members of a Fabric organisation: CAs, CAs below them, OUs, revocation, time.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod authority;

use authority::{Ca, NOW, Wanted};
use trust::{
    UnixTime,
    identity::IdentityError,
    msp::{Definition, Msp, Role, Unit},
};

fn unit(name: &str) -> Unit {
    Unit { name: name.into(), authority: vec![] }
}

fn definition(root: &Ca) -> Definition {
    let roles = [Role::Client, Role::Peer, Role::Admin, Role::Orderer];
    Definition {
        id: "Org1MSP".into(),
        roots: vec![root.pem.clone().into_bytes()],
        roles: roles.into_iter().map(|r| (r, unit(&r.to_string()))).collect(),
        ..Definition::default()
    }
}

fn role(msp: &Msp, ca: &Ca, units: &[&str]) -> Result<Role, IdentityError> {
    let (pem, key) = ca.member(&Wanted::new("somebody", units, 7));
    let member = msp.member(pem.as_bytes())?;
    assert_eq!(member.verify(b"it", &authority::sign(&key, b"it")), Ok(()));
    assert!(member.verify(b"that", &authority::sign(&key, b"it")).is_err());
    // Twice: remembered.
    assert_eq!(msp.member(pem.as_bytes()).unwrap().role, member.role);
    Ok(member.role)
}

#[test]
fn one_ou_is_the_role() {
    let root = Ca::root("org1", "root");
    let msp = Msp::new(&definition(&root)).unwrap();
    for (ou, expected) in
        [("client", Role::Client), ("peer", Role::Peer), ("admin", Role::Admin), ("orderer", Role::Orderer)]
    {
        assert_eq!(role(&msp, &root, &[ou]).unwrap(), expected);
        assert_eq!(role(&msp, &root, &["department", ou]).unwrap(), expected);
    }
    for ous in [&[] as &[&str], &["department"], &["peer", "admin"], &["peer", "peer"], &["Peer"]] {
        assert!(matches!(role(&msp, &root, ous), Err(IdentityError::Malformed(_))), "{ous:?}");
    }
    // Without NodeOUs nobody is anything.
    let plain = Msp::new(&Definition { roles: vec![], ..definition(&root) }).unwrap();
    assert_eq!(role(&plain, &root, &["peer"]).unwrap(), Role::Unknown);
    // OUs of members, if there are any.
    let units = vec![unit("department")];
    let closed = Msp::new(&Definition { units, ..definition(&root) }).unwrap();
    assert!(role(&closed, &root, &["peer"]).is_err());
    assert_eq!(role(&closed, &root, &["peer", "department"]).unwrap(), Role::Peer);
}

#[test]
fn only_its_own_cas_vouch() {
    let root = Ca::root("org1", "root");
    let msp = Msp::new(&definition(&root)).unwrap();
    // Another with all the same names.
    let foreign = Ca::root("org1", "another key");
    assert!(matches!(role(&msp, &foreign, &["peer"]), Err(IdentityError::NotIssuedBy(_))));
    // A member is no CA, a CA no member.
    let wanted = Wanted { ca: Some(None), ..Wanted::new("sub", &["peer"], 9) };
    let below = root.below(&wanted);
    assert!(matches!(role(&msp, &below, &["peer"]), Err(IdentityError::NotIssuedBy(_))));
    assert!(matches!(msp.member(below.pem.as_bytes()), Err(IdentityError::Malformed(_))));
    let leaf = root.below(&Wanted::new("leaf", &["peer"], 9));
    assert!(msp.member(leaf.pem.as_bytes()).is_ok());
    let intermediates = vec![leaf.pem.into_bytes()];
    assert!(Msp::new(&Definition { intermediates, ..definition(&root) }).is_err());
    assert!(Msp::new(&Definition { roots: vec![], ..definition(&root) }).is_err());
    assert!(msp.member(b"nothing").is_err());
}

#[test]
fn cas_below_a_root_vouch_instead_of_it() {
    let root = Ca::root("org1", "root");
    let sub =
        |name: &'static str, below, serial| Wanted { ca: Some(below), ..Wanted::new(name, &[], serial) };
    let first = root.below(&sub("first", Some(0), 2));
    let pem = |ca: &Ca| ca.pem.clone().into_bytes();
    let with = |intermediates| Msp::new(&Definition { intermediates, ..definition(&root) });
    let msp = with(vec![pem(&first)]).unwrap();
    assert_eq!(role(&msp, &first, &["peer"]).unwrap(), Role::Peer);
    assert!(role(&msp, &root, &["peer"]).is_err(), "the root has a CA below it");
    // In any order, but not below one that allows none.
    let second = root.below(&sub("second", None, 3));
    let third = second.below(&sub("third", None, 4));
    let msp = with(vec![pem(&third), pem(&second)]).unwrap();
    assert_eq!(role(&msp, &third, &["peer"]).unwrap(), Role::Peer);
    assert!(role(&msp, &second, &["peer"]).is_err());
    let under_first = first.below(&sub("under-first", None, 5));
    assert!(with(vec![pem(&first), pem(&under_first)]).is_err());
    assert!(with(vec![pem(&third)]).is_err(), "it has no way to the root");
    // An OU may count in one CA's certificates only.
    let roles = vec![(Role::Peer, Unit { name: "peer".into(), authority: pem(&first) })];
    let intermediates = vec![pem(&first), pem(&second)];
    let msp = Msp::new(&Definition { roles, intermediates, ..definition(&root) }).unwrap();
    assert_eq!(role(&msp, &first, &["peer"]).unwrap(), Role::Peer);
    assert!(role(&msp, &second, &["peer"]).is_err());
}

#[test]
fn revoked_and_expired_members_do_not_count() {
    let root = Ca::root("org1", "root");
    let (pem, _) = root.member(&Wanted::new("somebody", &["peer"], 7));
    let with =
        |list: String| Msp::new(&Definition { revocations: vec![list.into_bytes()], ..definition(&root) });
    let revoked = with(root.revokes(&[3, 7])).unwrap();
    assert!(matches!(revoked.member(pem.as_bytes()), Err(IdentityError::Revoked(serial)) if serial == "07"));
    assert!(with(root.revokes(&[8])).unwrap().member(pem.as_bytes()).is_ok());
    // Signed by another CA of the same name, it says nothing.
    assert!(with(Ca::root("org1", "another key").revokes(&[7])).unwrap().member(pem.as_bytes()).is_ok());
    assert!(with("nothing".into()).is_err());
    // Nor does a CA that its own root revoked.
    let below = root.below(&Wanted { ca: Some(None), ..Wanted::new("below", &[], 2) });
    let intermediates = vec![below.pem.into_bytes()];
    let revocations = vec![root.revokes(&[2]).into_bytes()];
    let error = Msp::new(&Definition { intermediates, revocations, ..definition(&root) }).unwrap_err();
    assert!(matches!(error, IdentityError::Revoked(_)), "{error}");

    let msp = Msp::new(&definition(&root)).unwrap();
    let short = Wanted { from: NOW - 10, to: NOW + 10, ..Wanted::new("brief", &["peer"], 8) };
    let member = msp.member(root.member(&short).0.as_bytes()).unwrap();
    assert_eq!(member.check(UnixTime(NOW)), Ok(()));
    for at in [NOW - 11, NOW + 11] {
        assert!(matches!(member.check(UnixTime(at)), Err(IdentityError::NotValidAt { .. })), "{at}");
    }
    // The CA's time counts too.
    let long = Wanted { from: 0, to: NOW * 11 / 10, ..Wanted::new("long", &["peer"], 9) };
    let member = msp.member(root.member(&long).0.as_bytes()).unwrap();
    assert_eq!(member.check(UnixTime(NOW)), Ok(()));
    assert!(member.check(UnixTime(NOW + 1_000_000)).is_err());
}
