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
                    let work = !matches!(service.name(), "Control" | "Info");
                    assert_eq!(Method::of(&path).role() == Role::Work, work, "{path}");
                    let stream = Method::of(&path).arrival() == Arrival::Stream;
                    assert_eq!(stream, method.client_streaming(), "{path}");
                }
            }
        }
    }

    #[test]
    fn whatever_else_is_asked_is_other() {
        for path in [
            "",
            "/",
            "/paternoster.v1.Inference/generate",
            "//x",
            "/a/b/c",
        ] {
            assert_eq!(Method::of(path).label(), "other");
        }
    }

    use prost::Message as _;
}
