//! The one table from an architecture's name to its family.

use serde_json::Value;

use crate::config::Config;
use crate::families::{
    bert, distilbert, gte, jina, llama, mistral, modernbert, mpnet, nomic, qwen2, qwen3, roberta,
};
use crate::load::LoadError;
use crate::spec::Network;

type Family = fn(&Config) -> Result<Network, LoadError>;

const FAMILIES: &[(&str, Family)] = &[
    ("BertForMaskedLM", bert::masked),
    ("BertForSequenceClassification", bert::classifier),
    ("BertModel", bert::spec),
    ("CamembertForMaskedLM", roberta::masked),
    ("CamembertForSequenceClassification", roberta::classifier),
    ("CamembertModel", roberta::spec),
    ("DistilBertForMaskedLM", distilbert::masked),
    (
        "DistilBertForSequenceClassification",
        distilbert::classifier,
    ),
    ("DistilBertModel", distilbert::spec),
    ("GteForSequenceClassification", gte::classifier),
    ("GteModel", gte::spec),
    ("JinaBertForMaskedLM", jina::spec),
    ("JinaBertModel", jina::spec),
    ("LlamaForCausalLM", llama::spec),
    ("LlamaModel", llama::spec),
    ("MPNetForMaskedLM", mpnet::masked),
    ("MPNetForSequenceClassification", mpnet::classifier),
    ("MPNetModel", mpnet::spec),
    ("MistralForCausalLM", mistral::spec),
    ("MistralModel", mistral::spec),
    ("ModernBertForMaskedLM", modernbert::masked),
    (
        "ModernBertForSequenceClassification",
        modernbert::classifier,
    ),
    ("ModernBertModel", modernbert::spec),
    ("NewForSequenceClassification", gte::classifier),
    ("NewModel", gte::spec),
    ("NomicBertModel", nomic::spec),
    ("Qwen2ForCausalLM", qwen2::spec),
    ("Qwen2Model", qwen2::spec),
    ("Qwen3ForCausalLM", qwen3::spec),
    ("Qwen3Model", qwen3::spec),
    ("RobertaForMaskedLM", roberta::masked),
    ("RobertaForSequenceClassification", roberta::classifier),
    ("RobertaModel", roberta::spec),
    ("XLMRobertaForMaskedLM", roberta::masked),
    ("XLMRobertaForSequenceClassification", roberta::classifier),
    ("XLMRobertaModel", roberta::spec),
];

/// The architecture's name and its spec.
pub(crate) fn network(config: &Config) -> Result<(String, Network), LoadError> {
    let architectures = config.texts("architectures")?.unwrap_or_default();
    let [architecture] = architectures.as_slice() else {
        return Err(config.wrong("architectures", "a list of one name"));
    };
    let Some((_, family)) = FAMILIES.iter().find(|(name, _)| name == architecture) else {
        let known: Vec<Value> = FAMILIES.iter().map(|(name, _)| (*name).into()).collect();
        return Err(config.unsupported("architectures", &known));
    };
    Ok(((*architecture).to_owned(), family(config)?))
}
