//! Policies that cannot decide: none founds a ledger, and a rule that errs, or works or grows without end, refuses.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use common::*;
use ledger_contract::{
    contract::decide,
    policy::PolicyData,
    records::{ENTRY_VERSION, GENESIS_PAYLOAD, Genesis, PACKAGE_PAYLOAD, PolicyBundle},
};

fn found_with(change: impl FnOnce(&mut PolicyBundle)) -> String {
    let w = world();
    let mut policy = policy();
    change(&mut policy);
    let it = Genesis { ledger: LEDGER.into(), orgs: w.roots.orgs.clone(), operator: "op".into(), policy };
    let tx = ledger_contract::TxInfo { v: ENTRY_VERSION, ledger: LEDGER.into(), position: 0, time: NOW };
    decide(&sign(GENESIS_PAYLOAD, &it, &w.operator), &Default::default(), &tx).verdict.code().to_owned()
}

#[test]
fn no_ledger_is_founded_on_a_policy_that_cannot_decide() {
    let rego = |text: &'static str| {
        move |p: &mut PolicyBundle| {
            p.files.insert("x.rego".into(), text.into());
        }
    };
    assert_eq!(found_with(|_| ()), "");
    for (n, broken) in [
        "this is not rego",
        "package other\nrules := {\"a\"}\ndeny contains x if { false; x := 1 }",
        "package mandate.tenant\ndeny contains x if { false; x := 1 }",
        "package mandate.tenant\nrules := {\"a\"}\ndeny contains x if { x := rand.intn(\"a\", 5) }",
        "package mandate.tenant\nrules := {sprintf(\"%d\", [x]) | some x in numbers.range(1, 9)}\ndeny contains 1 if false",
        "package mandate.tenant\nrules := {\"a\"}\ndeny contains 1 if bits.lsh(1, input.time) == 0",
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(found_with(rego(broken)), "POLICY_ERROR", "case {n}");
    }
    assert_eq!(found_with(|p| drop(p.files.remove("data.json"))), "POLICY_ERROR");
    assert_eq!(
        found_with(|p| drop(p.files.insert("data.json".into(), "{\"quota\": 1}".into()))),
        "POLICY_ERROR"
    );
    assert_eq!(found_with(|p| drop(p.files.insert("x.txt".into(), String::new()))), "POLICY_ERROR");
}

/// A policy whose rule works without end is refused, and so is every intent under it: never approved.
#[test]
fn a_rule_that_errs_or_never_ends_refuses() {
    let w = world();
    let endless = "package mandate.tenant\nrules := {\"slow\"}\n\
        l := [i | some i in split(sprintf(\"%1000d\", [1]), \"\")]\n\
        deny contains {\"rule\": \"slow\", \"code\": \"X\", \"detail\": \"x\"} if {\n\
        some a in l\nsome b in l\nsome c in l\nconcat(\"\", [a, b, c]) == \"never\"\n}";
    let errs = "package mandate.tenant\nrules := {\"bad\"}\n\
        deny contains {\"rule\": \"bad\", \"code\": \"X\", \"detail\": \"x\"} if { to_number(input.intent.id) > 0 }";
    let shapeless =
        "package mandate.tenant\nrules := {\"bad\"}\ndeny contains \"just text\" if input.time > 0";
    // Thirty lines, each of which makes what the one before made twice over.
    let grown = |first: &str, next: &dyn Fn(usize) -> String, last: &str| {
        let lines: Vec<String> =
            (1..40).map(|n| format!("x{n} := {} if input.time > 0", next(n - 1))).collect();
        format!(
            "package mandate.tenant\nrules := {{\"big\"}}\nx0 := {first}\n{}\n\
             deny contains {{\"rule\": \"big\", \"code\": \"X\", \"detail\": {last}}} if input.time > 0",
            lines.join("\n")
        )
    };
    let twice = |f: &'static str| move |n: usize| f.replace('@', &format!("x{n}"));
    let concat = grown("\"ab\"", &twice("concat(\"\", [@, @])"), "x39");
    let replace = grown("\"ab\"", &twice("replace(@, \"a\", \"aab\")"), "x39");
    let sprintf = grown("\"ab\"", &twice("sprintf(\"%s%s\", [@, @])"), "x39");
    let wide = grown("\"ab\"", &|_| "sprintf(\"%2000000000d\", [1])".to_owned(), "x39");
    let list = grown("[1, 2]", &twice("array.concat(@, @)"), "sprintf(\"%d\", [count(x39)])");
    // Not too much to make, and too much to say.
    let answer = grown("\"ab\"", &twice("concat(\"\", [@, @])"), "x21");
    let limit = "a bound of policies is exceeded";
    for (text, why) in [
        (endless, "limit"),
        (&*concat, limit),
        (&*replace, limit),
        (&*sprintf, limit),
        (&*wide, limit),
        (&*list, limit),
        (&*answer, limit),
        (errs, "could not parse"),
        (shapeless, "invalid type"),
    ] {
        let mut policy = policy();
        policy.files.insert("z.rego".into(), text.into());
        let mut chain = Chain::founded(&w, policy);
        for p in [vnf(&w, "vfw_vnf"), vnf(&w, "vlb_vnf"), nsd()] {
            chain.approve(sign(PACKAGE_PAYLOAD, &p, &w.provider));
        }
        let code = if why.contains("limit") || why == limit { "POLICY_LIMIT" } else { "POLICY_ERROR" };
        let outcome = chain.refuse(signed(&w, &deploy_intent("intent-0001", "edge")), code);
        let detail = &outcome.verdict.rules.iter().find(|r| !r.passed).unwrap().detail;
        assert!(detail.contains(why), "{detail}");
    }
}

#[test]
fn data_is_strict() {
    let mut text: serde_json::Value = serde_json::to_value(policy().data().unwrap()).unwrap();
    text["quotas"]["default"]["vcpu"] = 1.into();
    assert!(serde_json::from_value::<PolicyData>(text).is_err());
}
