//! The view as HTML: the program and the style are files beside this one, the data is packed text.

use super::super::PlotError;
use super::super::text::{escape, visible};
use super::super::tint::Tint;
use super::AttentionView;
use super::quantise::{Grid, signed};
use base64::prelude::{BASE64_STANDARD, Engine};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;

pub fn html(view: &AttentionView, time: usize) -> Result<String, PlotError> {
    let patterns = || view.models.iter().flat_map(|model| &model.patterns);
    let signed = signed(patterns());
    let grid = Grid::new(time, view.look.causal, patterns().count());
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    let mut finest: f32 = 0.0;
    let mut models: Vec<Value> = Vec::new();
    for model in &view.models {
        let mut heads = Vec::new();
        for pattern in &model.patterns {
            let (levels, most) = grid.levels(pattern, signed);
            finest = finest.max(most);
            packed.write_all(&levels).map_err(|error| PlotError::Draw(error.to_string()))?;
            heads.push(json!({ "layer": pattern.layer, "head": pattern.head, "name": pattern.name, "most": most }));
        }
        models.push(json!({ "name": model.name, "heads": heads }));
    }
    let packed = packed.finish().map_err(|error| PlotError::Draw(error.to_string()))?;
    let least = if signed { -f64::from(finest) } else { 0.0 };
    let tint = Tint::fit(&view.captions.title, [least, f64::from(finest)], view.look.range)?;
    let colours: String = tint.colours.iter().map(|c| format!("{:02x}{:02x}{:02x}", c.0, c.1, c.2)).collect();
    let shown = |tokens: &Option<Vec<String>>| tokens.as_ref().map(|all| all.iter().map(|t| visible(t)).collect());
    let (keys, queries): (Option<Vec<String>>, Option<Vec<String>>) =
        (shown(&view.look.x_tokens), shown(&view.look.y_tokens));
    let (layer, head) = view.start();
    let data = json!({
        "title": view.captions.title, "notes": view.captions.notes, "value": view.look.value, "size": view.size,
        "time": time, "block": grid.block, "causal": grid.causal, "signed": signed,
        "range": view.look.range.map(|_| [tint.lo, tint.hi]), "colours": colours,
        "keys": if keys == queries { Value::Null } else { json!(keys) }, "queries": queries,
        "layer": layer, "head": head, "models": models, "weights": BASE64_STANDARD.encode(packed),
    });
    // In a script only `<` could end it, and JSON has another way to write it.
    let data = data.to_string().replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    let id = format!("{:016x}", hasher.finish());
    let title = escape(&view.captions.title);
    let (script, style) = (include_str!("view.js").trim_end(), include_str!("view.css"));
    let style = serde_json::Value::from(style).to_string().replace('<', "\\u003c");
    Ok(format!(
        "<div data-attention-view=\"{id}\"><p>{title}: an interactive view. It appears when the cell is run, or when \
         the notebook is trusted.</p></div>\n<script>({script})(\"{id}\", {data}, {style})</script>\n"
    ))
}
