//! The methods there are: the closed set of the label `method`, and what each is for.

/// One method of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method(usize);

/// What a method is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It costs compute: bounded, refused while draining, waited for by a drain.
    Work,
    /// It looks or steers: answered always.
    Control,
}

/// Whom a method answers where there are API keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody.
    Open,
    /// Whoever has a key.
    Look,
    /// Whoever has a key that may work.
    Work,
    /// Whoever has a key that may steer.
    Admin,
}

/// Path, label and role; the last entry stands for everything else.
const METHODS: [(&str, &str, Role); 43] = [
    ("/paternoster.v1.Inference/Generate", "Generate", Role::Work),
    ("/paternoster.v1.Inference/Complete", "Complete", Role::Work),
    ("/paternoster.v1.Inference/Embed", "Embed", Role::Work),
    (
        "/paternoster.v1.Inference/EmbedStream",
        "EmbedStream",
        Role::Work,
    ),
    ("/paternoster.v1.Inference/Rerank", "Rerank", Role::Work),
    ("/paternoster.v1.Inference/Classify", "Classify", Role::Work),
    ("/paternoster.v1.Inference/Tokenize", "Tokenize", Role::Work),
    (
        "/paternoster.v1.Inference/Detokenize",
        "Detokenize",
        Role::Work,
    ),
    ("/paternoster.v1.Control/GetInfo", "GetInfo", Role::Control),
    (
        "/paternoster.v1.Control/ListModels",
        "ListModels",
        Role::Control,
    ),
    ("/paternoster.v1.Control/GetLoad", "GetLoad", Role::Control),
    (
        "/paternoster.v1.Control/WatchLoad",
        "WatchLoad",
        Role::Control,
    ),
    ("/paternoster.v1.Control/Abort", "Abort", Role::Control),
    (
        "/paternoster.v1.Control/LoadAdapter",
        "LoadAdapter",
        Role::Control,
    ),
    (
        "/paternoster.v1.Control/UnloadAdapter",
        "UnloadAdapter",
        Role::Control,
    ),
    (
        "/paternoster.v1.Control/ListAdapters",
        "ListAdapters",
        Role::Control,
    ),
    (
        "/paternoster.v1.Control/GetTokenizer",
        "GetTokenizer",
        Role::Control,
    ),
    (
        "/paternoster.v1.Control/SubscribeKvEvents",
        "SubscribeKvEvents",
        Role::Control,
    ),
    (
        "/paternoster.v1.Control/FlushCache",
        "FlushCache",
        Role::Control,
    ),
    ("/paternoster.v1.Control/Drain", "Drain", Role::Control),
    ("/tei.v1.Info/Info", "tei.Info", Role::Control),
    ("/tei.v1.Embed/Embed", "tei.Embed", Role::Work),
    ("/tei.v1.Embed/EmbedStream", "tei.EmbedStream", Role::Work),
    ("/tei.v1.Embed/EmbedSparse", "tei.EmbedSparse", Role::Work),
    (
        "/tei.v1.Embed/EmbedSparseStream",
        "tei.EmbedSparseStream",
        Role::Work,
    ),
    ("/tei.v1.Embed/EmbedAll", "tei.EmbedAll", Role::Work),
    (
        "/tei.v1.Embed/EmbedAllStream",
        "tei.EmbedAllStream",
        Role::Work,
    ),
    ("/tei.v1.Predict/Predict", "tei.Predict", Role::Work),
    ("/tei.v1.Predict/PredictPair", "tei.PredictPair", Role::Work),
    (
        "/tei.v1.Predict/PredictStream",
        "tei.PredictStream",
        Role::Work,
    ),
    (
        "/tei.v1.Predict/PredictPairStream",
        "tei.PredictPairStream",
        Role::Work,
    ),
    ("/tei.v1.Rerank/Rerank", "tei.Rerank", Role::Work),
    (
        "/tei.v1.Rerank/RerankStream",
        "tei.RerankStream",
        Role::Work,
    ),
    ("/tei.v1.Tokenize/Tokenize", "tei.Tokenize", Role::Work),
    (
        "/tei.v1.Tokenize/TokenizeStream",
        "tei.TokenizeStream",
        Role::Work,
    ),
    ("/tei.v1.Tokenize/Decode", "tei.Decode", Role::Work),
    (
        "/tei.v1.Tokenize/DecodeStream",
        "tei.DecodeStream",
        Role::Work,
    ),
    ("/grpc.health.v1.Health/Check", "HealthCheck", Role::Control),
    ("/grpc.health.v1.Health/Watch", "HealthWatch", Role::Control),
    ("/grpc.health.v1.Health/List", "HealthList", Role::Control),
    (REFLECTION_V1, "Reflection", Role::Control),
    (REFLECTION_V1ALPHA, "Reflection", Role::Control),
    ("", "other", Role::Control),
];

const REFLECTION_V1: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const REFLECTION_V1ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

/// What a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// One message.
    Message,
    /// Message after message, for as long as it likes.
    Stream,
}

impl Method {
    /// The method of a path.
    pub(crate) fn of(path: &str) -> Self {
        let found = METHODS.iter().position(|(known, _, _)| *known == path);
        Self(found.unwrap_or(METHODS.len() - 1))
    }

    /// All methods, and the one that stands for everything else.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..METHODS.len()).map(Self)
    }

    /// Whether there is such a method.
    pub(crate) fn is_known(self) -> bool {
        self.0 + 1 < METHODS.len()
    }

    /// Whether it tells health and nothing else.
    pub(crate) fn is_health(self) -> bool {
        METHODS[self.0].0.starts_with("/grpc.health.v1.Health/")
    }

    /// Its word in metrics and logs.
    pub(crate) fn label(self) -> &'static str {
        METHODS[self.0].1
    }

    /// What its client sends.
    pub(crate) fn arrival(self) -> Arrival {
        let label = self.label();
        if label.ends_with("Stream") || label == "Reflection" {
            Arrival::Stream
        } else {
            Arrival::Message
        }
    }

    /// Whether it waits when all places are taken; others are refused at once.
    pub(crate) fn waits(self) -> bool {
        self.arrival() == Arrival::Stream || self.label() == "tei.Rerank"
    }

    /// Whether it tells the contract and nothing else.
    pub(crate) fn is_reflection(self) -> bool {
        [REFLECTION_V1, REFLECTION_V1ALPHA].contains(&METHODS[self.0].0)
    }

    /// Whom it answers: health everybody, what nobody thought of whoever has a key.
    pub(crate) fn access(self) -> Access {
        match self.label() {
            _ if self.is_health() => Access::Open,
            _ if self.role() == Role::Work => Access::Work,
            // What was said to others can be read from KV events.
            "Abort" | "LoadAdapter" | "UnloadAdapter" | "SubscribeKvEvents" | "FlushCache"
            | "Drain" => Access::Admin,
            _ => Access::Look,
        }
    }

    /// What it is for.
    pub(crate) fn role(self) -> Role {
        METHODS[self.0].2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_contract_is_known() {
        let descriptors = prost_types::FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET);
        for file in descriptors.unwrap().file {
            let prefix = match file.package() {
                "tei.v1" => "tei.",
                _ => "",
            };
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let label = format!("{prefix}{}", method.name());
                    assert_eq!(Method::of(&path).label(), label, "{path}");
                    assert!(Method::of(&path).is_known(), "{path}");
                    let work = !matches!(service.name(), "Control" | "Info");
                    assert_eq!(Method::of(&path).role() == Role::Work, work, "{path}");
                    let stream = Method::of(&path).arrival() == Arrival::Stream;
                    assert_eq!(stream, method.client_streaming(), "{path}");
                }
            }
        }
    }

    #[test]
    fn a_method_answers_nobody_that_it_need_not_answer() {
        for (path, label, role) in METHODS {
            let open = path.starts_with("/grpc.health.v1.");
            let admin = [
                "Abort",
                "LoadAdapter",
                "UnloadAdapter",
                "SubscribeKvEvents",
                "FlushCache",
                "Drain",
            ];
            let expected = match role {
                Role::Work => Access::Work,
                Role::Control if open => Access::Open,
                Role::Control if admin.contains(&label) => Access::Admin,
                Role::Control => Access::Look,
            };
            assert_eq!(Method::of(path).access(), expected, "{path}");
        }
        assert_eq!(Method::of("/nobody/thought/of").access(), Access::Look);
    }

    #[test]
    fn whatever_else_is_asked_is_other() {
        for path in [
            "",
            "/",
            "/paternoster.v1.Inference/generate",
            "/paternoster.v1.inference/Generate",
            "//paternoster.v1.Inference/Generate",
            "/paternoster.v1.Inference//Generate",
            "/paternoster.v1.Inference/Generate/",
            "/paternoster.v1.Inference%2eGenerate",
            "/paternoster%2Ev1.Inference/Generate",
            "/./paternoster.v1.Inference/Generate",
            "/grpc.health.v1.Health/../../paternoster.v1.Inference/Generate",
            "//x",
            "/a/b/c",
        ] {
            assert_eq!(Method::of(path).label(), "other", "{path}");
            assert!(!Method::of(path).is_known(), "{path}");
            assert!(!Method::of(path).is_health(), "{path}");
        }
    }

    use prost::Message as _;
}
