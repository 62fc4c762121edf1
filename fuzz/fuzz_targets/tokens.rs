//! Tokens and the proofs that sessions make: any text, and good ones that were tampered with.
#![no_main]

use iceflix_core::{
    api::{
        SessionId,
        auth::{Role, SessionProof, Token},
    },
    trust::{
        Identity, Purpose, SessionKey,
        keys::SigningKey,
        session::{self, claimed_session},
        token::{self, issue},
    },
};
use libfuzzer_sys::fuzz_target;
use std::{sync::OnceLock, time::Duration};

const NOW: Duration = Duration::from_secs(1_800_000_000);

struct Good {
    key: SigningKey,
    token: String,
    identity: Identity,
    public: [u8; 32],
    proof: String,
}

fn good() -> &'static Good {
    static GOOD: OnceLock<Good> = OnceLock::new();
    GOOD.get_or_init(|| {
        let key = SigningKey::generate().expect("random numbers");
        let id = SessionId::from_bytes([7; 16]);
        let token = issue(&key, "home", "ada", id, Role::User, 3, NOW).expect("a token");
        let own = SessionKey::generate().expect("random numbers");
        let proof = own.prove(id, "home", Purpose::Renew, NOW).expect("a proof");
        let identity = token::verify(&token, "home", |k| *k == key.public(), NOW).expect("good");
        Good {
            token: token.0,
            identity,
            public: own.public(),
            proof: proof.0,
            key,
        }
    })
}

/// The text with some of it replaced.
fn tampered(text: &str, at: u8, with: &str) -> String {
    let at = usize::from(at) * text.len() / 256;
    let end = (at + with.len()).min(text.len());
    [&text[..at], with, &text[end..]].concat()
}

fuzz_target!(|input: (u8, &str)| {
    let (at, text) = input;
    let good = good();
    for token in [text.to_owned(), tampered(&good.token, at, text)] {
        let verified = token::verify(&Token(token), "home", |k| *k == good.key.public(), NOW);
        // Base64 may be written in more than one way; what it says is still what was signed.
        assert!(verified.is_err() || verified.as_ref() == Ok(&good.identity));
    }
    for proof in [text.to_owned(), tampered(&good.proof, at, text)] {
        let proof = SessionProof(proof);
        let claimed = claimed_session(&proof);
        let held = session::verify(&proof, good.public, "home", Purpose::Renew, NOW);
        assert!(held.is_err() || claimed == Some(SessionId::from_bytes([7; 16])));
        assert!(session::verify(&proof, good.public, "home", Purpose::Logout, NOW).is_err());
        assert!(session::verify(&proof, good.public, "lab", Purpose::Renew, NOW).is_err());
    }
});
