//! Who may say and hear what on the bus, as zenoh's access rules: everything is denied that is not
//! in [`Topics::access`]. Every node holds every other to it, by the role in its certificate.

use crate::{
    api::Kind,
    topics::{Access, Topics},
};
use serde_json::{Value, json};

/// What whoever speaks on a key sends, and what whoever hears it is sent.
const SPEAKING: [&str; 5] = [
    "put",
    "delete",
    "declare_queryable",
    "reply",
    "liveliness_token",
];

/// What whoever hears a key sends, and what whoever speaks on it is sent.
const HEARING: [&str; 4] = [
    "declare_subscriber",
    "query",
    "liveliness_query",
    "declare_liveliness_subscriber",
];

/// zenoh's `access_control`, as each node of the cluster has it.
pub(super) fn control(topics: &Topics) -> Value {
    let access = topics.access();
    let mut rules = Vec::new();
    let mut rule = |id: String, messages: &[&str], flow: &str, key: &str| {
        rules.push(json!({
            "id": id,
            "messages": messages,
            "flows": [flow],
            "permission": "allow",
            "key_exprs": [key],
        }));
    };
    let mut policies = Vec::new();
    for (n, Access { says, asked, .. }) in access.iter().enumerate() {
        // Of whoever speaks: what it says comes in, and what is asked of it goes out.
        rule(format!("says-{n}"), &SPEAKING, "ingress", says);
        rule(format!("is-asked-{n}"), &HEARING, "egress", asked);
        // Of whoever hears: what it asks comes in, and what is said goes out.
        rule(format!("asks-{n}"), &HEARING, "ingress", asked);
        rule(format!("hears-{n}"), &SPEAKING, "egress", says);
    }
    for kind in Kind::ALL {
        let of = |allowed: fn(&Access, Kind) -> bool, ids: [&'static str; 2]| {
            let entries = access.iter().enumerate();
            entries
                .filter(move |(_, entry)| allowed(entry, kind))
                .flat_map(move |(n, _)| ids.map(|id| format!("{id}-{n}")))
        };
        let speaks = of(|entry, kind| entry.speaker == kind, ["says", "is-asked"]);
        let hears = of(
            |entry, kind| entry.hearers.contains(&kind),
            ["asks", "hears"],
        );
        policies.push(json!({
            "rules": speaks.chain(hears).collect::<Vec<String>>(),
            "subjects": [kind.as_str()],
        }));
    }
    let subjects: Vec<Value> = Kind::ALL
        .into_iter()
        .map(|kind| json!({ "id": kind.as_str(), "cert_common_names": [kind.as_str()] }))
        .collect();
    json!({
        "enabled": true,
        "default_permission": "deny",
        "rules": rules,
        "subjects": subjects,
        "policies": policies,
    })
}
