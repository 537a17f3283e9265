//! Schemas of the texts that people enter. They say what is sent, so a limit stands here that holds for ever, and no pattern that may
//! become stricter.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{
    attributes::Attributes,
    text::{AttributeKey, Email, Issuer, Line, Slug},
};

/// Each is inlined under its field's own description.
macro_rules! schemas {
    ($($name:ident: $schema:tt),*) => {$(
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}
schemas! {
    Email: { "type": "string", "format": "idn-email" },
    Slug: { "type": "string", "pattern": "^[a-z0-9](-?[a-z0-9]){2,62}$" },
    Line: { "type": "string" },
    Issuer: { "type": "string", "format": "uri" },
    AttributeKey: { "type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$" },
    Attributes: { "type": "object", "propertyNames": { "pattern": "^[A-Za-z0-9_.-]{1,64}$" }, "additionalProperties": true }
}
