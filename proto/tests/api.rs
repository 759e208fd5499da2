//! The gRPC API is public: `api.txt` lists every message, field number and rpc, and none of them may change or be
//! removed.
#![allow(clippy::unwrap_used)]

use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};

/// Returns one line for each field and rpc, in the files' order.
fn lines() -> Vec<String> {
    let set = FileDescriptorSet::decode(hoistway_proto::DESCRIPTORS).unwrap();
    let mut lines = Vec::new();
    for file in set.file.iter().filter(|file| file.package().starts_with("hoistway.")) {
        for message in &file.message_type {
            fields(file.package(), message, &mut lines);
        }
        for service in &file.service {
            for rpc in &service.method {
                let stream = if rpc.server_streaming() { "stream " } else { "" };
                let (name, input, output) = (rpc.name(), rpc.input_type(), rpc.output_type());
                lines.push(format!("rpc {}.{}.{name}({input}) {stream}{output}", file.package(), service.name()));
            }
        }
    }
    lines
}

fn fields(scope: &str, message: &DescriptorProto, lines: &mut Vec<String>) {
    let scope = format!("{scope}.{}", message.name());
    for field in &message.field {
        let label = field.label().as_str_name().trim_start_matches("LABEL_").to_lowercase();
        let kind = match field.type_name() {
            "" => field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase(),
            name => name.to_owned(),
        };
        lines.push(format!("{scope}.{} = {} {label} {kind}", field.name(), field.number()));
    }
    for nested in &message.nested_type {
        fields(&scope, nested, lines);
    }
}

#[test]
fn nothing_of_the_api_has_changed() {
    let now = lines();
    let kept = include_str!("api.txt");
    let broken: Vec<&str> = kept.lines().filter(|line| !now.iter().any(|l| l == line)).collect();
    assert!(broken.is_empty(), "changed or gone, which breaks clients: {broken:#?}");
    let new: Vec<&String> = now.iter().filter(|line| !kept.lines().any(|l| l == *line)).collect();
    assert!(new.is_empty(), "new; add to proto/tests/api.txt: {new:#?}");
}
