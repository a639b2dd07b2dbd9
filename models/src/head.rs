//! What becomes of the tokens' vectors: pooled vectors, scores of labels, weights of words.

use std::ops::Range;

use engine::executor::{EncodeInput, Encoded, Output, Pooling, Progress};
use kernels::Compute;
use kernels::linear::Linear;
use kernels::norm::normalize;

use crate::load::LoadError;
use crate::norm::Norm;
use crate::source::{Part, Source};
use crate::spec::{Dense as DenseSpec, EncoderHead, EncoderSpec};

/// The head of an encoder.
#[derive(Debug)]
pub(crate) struct Head {
    kind: Kind,
    /// Between pooling and result; before the words, of a vocabulary's head.
    stack: Stack,
    /// Pooled rows of a run, reused.
    pooled: Vec<f32>,
    words: Words,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Vectors,
    /// How scores begin.
    Classifier(Pooling),
    Vocabulary,
}

/// What the network made of a run of inputs.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    /// The inputs.
    pub(crate) inputs: &'a [EncodeInput],
    /// First row of each input, then the number of rows.
    pub(crate) cu_lengths: &'a [u32],
    /// The tokens' vectors, `[rows, hidden]`.
    pub(crate) rows: &'a [f32],
    /// Their width.
    pub(crate) hidden: usize,
    /// The token embedding, where it is the head's last layer too.
    pub(crate) words: Option<&'a Linear>,
    /// Told of every chunk of the vocabulary's scores.
    pub(crate) progress: &'a Progress,
}

impl Run<'_> {
    /// Each input and its rows.
    fn each(&self) -> impl Iterator<Item = (&EncodeInput, Range<usize>)> {
        let ends = self.cu_lengths.windows(2);
        let ranges = ends.map(|ends| ends[0] as usize..ends[1] as usize);
        self.inputs.iter().zip(ranges)
    }

    fn vectors(&self, rows: Range<usize>) -> &[f32] {
        &self.rows[rows.start * self.hidden..rows.end * self.hidden]
    }
}

impl Head {
    /// Packs the head's own weights; `modules` are the sources of its modules.
    pub(crate) fn load(
        spec: &EncoderSpec,
        source: &mut Source,
        modules: Vec<Source>,
    ) -> Result<Self, LoadError> {
        let mut stack = Stack::default();
        let kind = match &spec.head {
            EncoderHead::Vectors(list) => {
                for (module, mut source) in list.iter().zip(modules) {
                    stack.push(&module.layer, &mut source, spec)?;
                }
                Kind::Vectors
            }
            EncoderHead::Classifier(classifier) => {
                for layer in &classifier.layers {
                    stack.push(layer, source, spec)?;
                }
                Kind::Classifier(classifier.pooling)
            }
            EncoderHead::Vocabulary(vocabulary) => {
                stack.push(&vocabulary.transform, source, spec)?;
                Kind::Vocabulary
            }
        };
        Ok(Self {
            kind,
            stack,
            pooled: Vec::new(),
            words: Words::default(),
        })
    }

    /// Appends the results of a run, in the order of its inputs.
    pub(crate) fn finish(
        &mut self,
        compute: &mut Compute,
        run: &Run<'_>,
        encoded: &mut Vec<Encoded>,
    ) {
        let Self {
            kind,
            stack,
            pooled,
            words,
        } = self;
        pooled.clear();
        let mut count = 0;
        for (input, rows) in run.each() {
            let pooling = match (input.output, *kind) {
                (Output::Scores, Kind::Classifier(pooling))
                | (Output::Pooled(pooling), Kind::Vectors) => pooling,
                (Output::Tokens, _) | (Output::Sparse, Kind::Vocabulary) => continue,
                (output, kind) => unreachable!("{output:?} of a head for {kind:?}"),
            };
            pool(run.vectors(rows), run.hidden, pooling, pooled);
            count += 1;
        }
        if count > 0 {
            stack.forward(compute, pooled);
        }
        let width = pooled.len().checked_div(count).unwrap_or(0);
        let mut vectors = pooled.chunks_exact(width.max(1));
        words.begin();
        for (input, rows) in run.each() {
            let (values, width) = match input.output {
                Output::Tokens => (run.vectors(rows), run.hidden),
                Output::Pooled(_) | Output::Scores => (vectors.next().unwrap_or_default(), width),
                Output::Sparse => {
                    encoded.push(words.weigh(compute, stack, run, rows));
                    continue;
                }
            };
            encoded.push(Encoded {
                values: values.to_vec(),
                width: width as u32,
                places: Vec::new(),
            });
        }
    }
}

/// Linear layers one after the other.
#[derive(Debug, Default)]
struct Stack {
    layers: Vec<Layer>,
    /// The rows between two layers, reused.
    between: Vec<f32>,
}

#[derive(Debug)]
struct Layer {
    spec: DenseSpec,
    linear: Linear,
    norm: Option<Norm>,
}

impl Stack {
    fn push(
        &mut self,
        layer: &DenseSpec,
        source: &mut Source,
        spec: &EncoderSpec,
    ) -> Result<(), LoadError> {
        let part = Part {
            name: layer.name.to_owned(),
            outputs: layer.outputs,
        };
        let bias = layer.bias.then(|| format!("{}.bias", layer.name));
        self.layers.push(Layer {
            spec: layer.clone(),
            linear: source.linear_and_bias(part, layer.inputs, bias.as_deref())?,
            norm: match layer.norm {
                None => None,
                Some(name) => Some(Norm::load(source, name, spec)?),
            },
        });
        Ok(())
    }

    /// Puts what the layers make of `rows` in their place.
    fn forward(&mut self, compute: &mut Compute, rows: &mut Vec<f32>) {
        for layer in &self.layers {
            let DenseSpec {
                inputs, outputs, ..
            } = layer.spec;
            let elements = rows.len() / inputs * outputs;
            self.between.resize(elements, 0.0);
            match layer.spec.activation {
                None => layer.linear.forward(compute, rows, &mut self.between),
                Some(activation) => {
                    let to = &mut self.between;
                    layer
                        .linear
                        .forward_activated(compute, rows, activation, to);
                }
            }
            match &layer.norm {
                None => std::mem::swap(rows, &mut self.between),
                Some(norm) => {
                    rows.resize(elements, 0.0);
                    normalize(compute, &self.between, norm, rows);
                }
            }
        }
    }
}

/// The words' weights, after SPLADE: `ln(1 + max(x, 0))` of the largest score x that any of the
/// input's tokens gives the word. Scores are computed for [`CHUNK_ROWS`] tokens at once, whichever
/// inputs they are of, so that the buffers stay at so many times the vocabulary.
#[derive(Debug, Default)]
struct Words {
    transformed: Vec<f32>,
    scores: Vec<f32>,
    /// The rows whose scores these are.
    chunk: Range<usize>,
    /// The largest scores so far.
    best: Vec<f32>,
}

impl Words {
    /// Forgets the scores of the run before.
    fn begin(&mut self) {
        self.chunk = 0..0;
    }

    /// The weights of the input that has these rows. Inputs come in their order.
    fn weigh(
        &mut self,
        compute: &mut Compute,
        stack: &mut Stack,
        run: &Run<'_>,
        rows: Range<usize>,
    ) -> Encoded {
        let Some(words) = run.words else {
            unreachable!("a vocabulary's head has its words");
        };
        let vocab = words.shape().outputs;
        self.best.clear();
        self.best.resize(vocab, f32::NEG_INFINITY);
        for row in rows {
            if !self.chunk.contains(&row) {
                let end = (row + CHUNK_ROWS).min(run.rows.len() / run.hidden);
                self.chunk = row..end;
                self.transformed.clear();
                self.transformed
                    .extend_from_slice(run.vectors(self.chunk.clone()));
                stack.forward(compute, &mut self.transformed);
                self.scores.resize(self.chunk.len() * vocab, 0.0);
                words.forward(compute, &self.transformed, &mut self.scores);
                run.progress.made();
            }
            let at = (row - self.chunk.start) * vocab;
            keep_largest(&mut self.best, &self.scores[at..at + vocab]);
        }
        weights(&self.best)
    }
}

/// Values that the head's buffers have beside its weights: of the words' scores, and of what they
/// are made of.
pub(crate) fn values(spec: &EncoderSpec) -> usize {
    match &spec.head {
        EncoderHead::Vocabulary(_) => CHUNK_ROWS * (2 * spec.hidden + spec.vocab) + spec.vocab,
        EncoderHead::Vectors(_) | EncoderHead::Classifier(_) => 0,
    }
}

/// The larger of each two; what is not a number stays so.
fn keep_largest(best: &mut [f32], scores: &[f32]) {
    for (best, &score) in best.iter_mut().zip(scores) {
        if score > *best || score.is_nan() {
            *best = score;
        }
    }
}

/// The words whose largest score is above zero.
fn weights(best: &[f32]) -> Encoded {
    let mut encoded = Encoded {
        width: best.len() as u32,
        ..Encoded::default()
    };
    for (place, &score) in (0..).zip(best) {
        if score > 0.0 || score.is_nan() {
            encoded.places.push(place);
            encoded.values.push(score.ln_1p());
        }
    }
    encoded
}

/// Appends one vector made of the rows of an input; zeros when it has none.
fn pool(rows: &[f32], width: usize, pooling: Pooling, vectors: &mut Vec<f32>) {
    let start = vectors.len();
    vectors.resize(start + width, 0.0);
    let vector = &mut vectors[start..];
    let mut rows = rows.chunks_exact(width);
    match pooling {
        Pooling::Cls => rows
            .next()
            .into_iter()
            .for_each(|row| vector.copy_from_slice(row)),
        Pooling::LastToken => {
            rows.next_back()
                .into_iter()
                .for_each(|row| vector.copy_from_slice(row));
        }
        Pooling::Mean => {
            let count = rows.len().max(1) as f32;
            for row in rows {
                vector.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            for sum in vector {
                *sum /= count;
            }
        }
    }
}

/// 64: enough rows that the words' matrix is read for a good cause, and few enough that the scores
/// of 250,000 words take 64 MB.
const CHUNK_ROWS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled(rows: &[f32], pooling: Pooling) -> Vec<f32> {
        let mut vectors = vec![9.0];
        pool(rows, 2, pooling, &mut vectors);
        vectors.split_off(1)
    }

    #[test]
    fn pooling_takes_first_last_or_mean() {
        let rows = [1.0, 2.0, 3.0, 4.0, 8.0, 3.0];
        assert_eq!(pooled(&rows, Pooling::Cls), [1.0, 2.0]);
        assert_eq!(pooled(&rows, Pooling::LastToken), [8.0, 3.0]);
        assert_eq!(pooled(&rows, Pooling::Mean), [4.0, 3.0]);
        assert_eq!(pooled(&[], Pooling::Mean), [0.0, 0.0]);
    }

    #[test]
    fn weights_are_of_words_above_zero_and_hide_no_failure() {
        let mut best = [f32::NEG_INFINITY; 5];
        keep_largest(&mut best, &[1.0, -1.0, 0.0, f32::NAN, 2.0]);
        keep_largest(&mut best, &[0.5, -2.0, -0.0, 3.0, 5.0]);
        let encoded = weights(&best);
        assert_eq!((encoded.width, encoded.places), (5, vec![0, 3, 4]));
        assert_eq!(encoded.values[0].to_bits(), 1.0_f32.ln_1p().to_bits());
        assert!(encoded.values[1].is_nan());
        assert_eq!(encoded.values[2].to_bits(), 5.0_f32.ln_1p().to_bits());
    }
}
