//! Calls of models: the OpenAI API, as agents' clients speak it, in front of whichever provider serves the model.

pub(crate) mod provider;
