//! How the next token is chosen: parameters as checked data. Names follow vLLM and TGI.

use scheduler::request::Token;

/// Checked sampling parameters of one sequence. Absent options are `None`, never a sentinel.
/// Order of application: logit bias and `min_tokens` mask, repetition, frequency and presence
/// penalties, temperature, top-k, top-p, min-p, typical-p, draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 < t; `None` is greedy.
    pub temperature: Option<f32>,
    /// Keep the k most likely tokens; >= 1.
    pub top_k: Option<u32>,
    /// Keep the smallest set of tokens with at least this probability; 0 < p < 1.
    pub top_p: Option<f32>,
    /// Keep tokens with at least this share of the best one's probability; 0 < p <= 1.
    pub min_p: Option<f32>,
    /// Locally typical sampling: keep tokens of typical information up to this mass; 0 < p < 1.
    pub typical_p: Option<f32>,
    /// Divides positive and multiplies negative logits of seen tokens; > 0.
    pub repetition_penalty: Option<f32>,
    /// Subtracted once per earlier generation of a token; -2..=2.
    pub frequency_penalty: Option<f32>,
    /// Subtracted when a token was generated before; -2..=2.
    pub presence_penalty: Option<f32>,
    /// Added to the logits of these tokens; -100..=100 each, sorted by token, no duplicates.
    pub logit_bias: Vec<(Token, f32)>,
    /// Keys the counter generator together with the position of the token drawn.
    pub seed: u64,
    /// How many top log probabilities to report beside the drawn one; `None` reports none.
    pub logprobs: Option<u32>,
    /// End-of-sequence and stop tokens: drawing one ends the sequence.
    pub stop_tokens: Vec<Token>,
    /// None of `stop_tokens` may be drawn before this many tokens were generated.
    pub min_tokens: u32,
}

impl Default for Sampling {
    /// Greedy, with nothing else set.
    fn default() -> Self {
        Self {
            temperature: None,
            top_k: None,
            top_p: None,
            min_p: None,
            typical_p: None,
            repetition_penalty: None,
            frequency_penalty: None,
            presence_penalty: None,
            logit_bias: Vec::new(),
            seed: 0,
            logprobs: None,
            stop_tokens: Vec::new(),
            min_tokens: 0,
        }
    }
}
