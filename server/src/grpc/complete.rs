//! `Complete`: a generation collected to its end.

use proto::v1;
use proto::v1::generate_response::Event;
use tonic::Status;

use super::generation::Generation;

/// Waits for the end of every sequence.
pub(crate) async fn collect(mut generation: Generation) -> Result<v1::CompleteResponse, Status> {
    let mut completions: Vec<v1::Completion> = Vec::new();
    while let Some(event) = generation.next().await {
        match event? {
            Event::Started(_) => {}
            Event::Delta(delta) => {
                let completion = of(&mut completions, delta.index);
                completion.text.push_str(&delta.text);
                completion.token_ids.extend(delta.token_ids);
                completion.logprobs.extend(delta.logprobs);
            }
            Event::Finished(finished) => {
                let completion = of(&mut completions, finished.index);
                completion.reason = finished.reason;
                completion.stop = finished.stop;
                completion.stop_token_id = finished.stop_token_id;
            }
        }
    }
    Ok(v1::CompleteResponse {
        request_id: std::mem::take(&mut generation.request_id),
        model: std::mem::take(&mut generation.model),
        completions,
        usage: Some(generation.usage),
    })
}

/// The completion of an index; made with all before it when it is new.
fn of(completions: &mut Vec<v1::Completion>, index: u32) -> &mut v1::Completion {
    while completions.len() <= index as usize {
        let index = completions.len() as u32;
        completions.push(v1::Completion {
            index,
            ..v1::Completion::default()
        });
    }
    &mut completions[index as usize]
}
