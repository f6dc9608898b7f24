// Goldens of a model's graph: config.json, weights, golden.safetensors, golden.json, rotary tables.

#include <ATen/ATen.h>

#include <algorithm>

#include "golden.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/torch_checkpoint.h"
#include "moelora/model/registry.h"

namespace moelora::verify {
namespace {

namespace fs = std::filesystem;

// The reference's boolean mask, 1 = not attended: [S, 1, columns, columns].
at::Tensor golden_mask(const GoldenBatch& batch) {
  const auto columns = batch.columns;
  at::Tensor mask = at::ones({batch.segments.count(), 1, columns, columns}, at::kByte);
  for (std::int64_t i = 0; i < batch.segments.count(); ++i) {
    at::Tensor own = mask[i][0];
    const auto begin = batch.begin[i];
    // Left padding is masked as row and column; the model's own mask (right padding) knows no pads.
    const auto length = columns - begin;
    at::Tensor real = own.narrow(0, begin, length).narrow(1, begin, length);
    real.copy_(at::ones({length, length}, at::kByte).triu(1));
    real.narrow(1, 0, batch.segments.bidirectional[i]).zero_();
  }
  return mask;
}

at::Tensor golden_positions(const GoldenBatch& batch, const model::CausalLM& model) {
  const std::int64_t axes = model.positions(batch.segments).size(0);
  at::Tensor positions = at::zeros({batch.segments.count(), axes, batch.columns}, at::kLong);
  for (std::int64_t i = 0; i < batch.segments.count(); ++i) {
    // To the end of the row: right padding continues the count, left padding has none behind.
    const auto length = batch.columns - batch.begin[i];
    positions[i]
        .narrow(1, batch.begin[i], length)
        .copy_(model.positions(nn::Segments::from_lengths({length}, {batch.segments.bidirectional[i]})));
  }
  return positions;
}

at::Tensor golden_ids(const GoldenBatch& batch, std::int64_t pad) {
  return at::where(batch.real, batch.pad(batch.ids), at::scalar_tensor(pad, at::kLong));
}

at::Tensor golden_labels(const GoldenBatch& batch) {
  at::Tensor of_rows = at::full({batch.segments.rows()}, -100, at::kLong);
  of_rows.index_copy_(0, batch.label_rows + 1, batch.labels);
  return at::where(batch.real, batch.pad(of_rows), at::scalar_tensor(std::int64_t{-100}, at::kLong));
}

at::Tensor sequence_tensor(const nlohmann::ordered_json& ids) {
  return at::tensor(ids.get<std::vector<std::int64_t>>(), at::kLong);
}

// What the graph is given: ids, and positions and mask where the goldens have them.
void verify_inputs(const std::string& side, GoldenFile& golden, const model::CausalLM& model, const GoldenBatch& batch,
                   std::int64_t pad) {
  golden.compare_equal(side + ".input_ids", golden_ids(batch, pad));
  if (golden.contains(side + ".position_ids")) {
    golden.compare_equal(side + ".position_ids", golden_positions(batch, model));
  }
  if (golden.contains(side + ".attention_mask")) {
    golden.compare_equal(side + ".attention_mask", golden_mask(batch));
  }
}

void verify_padded(const std::string& side, GoldenFile& golden, model::CausalLM& model, const GoldenBatch& batch,
                   std::int64_t pad, double tolerance) {
  at::NoGradGuard guard;
  verify_inputs(side, golden, model, batch, pad);
  golden.compare_equal(side + ".labels", golden_labels(batch));
  const nn::RowContext context = nn::RowContext::plain(batch.segments, model.device());
  const auto states = hidden_states(model, batch, context);
  for (std::size_t layer = 0; layer < states.size(); ++layer) {
    const std::string name = side + ".hidden." + std::to_string(layer);
    if (golden.contains(name)) {
      golden.compare_rows(name, batch.pad(states[layer].to(at::kFloat).cpu()), batch.real, tolerance);
    }
  }
  const GraphRun run = run_graph(model, batch, context);
  if (golden.contains(side + ".logits")) {
    golden.compare_rows(side + ".logits", batch.pad(run.logits), batch.real, tolerance);
  }
  if (golden.contains(side + ".loss")) {
    golden.compare(side + ".loss", run.loss.to(at::kFloat).view({1}), tolerance);
  }
}

// Packed sequences of golden.json in the padded form of one side, so that the stored ids are compared, not believed.
at::Tensor padded_sequences(const nlohmann::ordered_json& sequences, std::int64_t columns, std::int64_t pad,
                            bool left) {
  at::Tensor ids = at::full({static_cast<std::int64_t>(sequences.size()), columns}, pad, at::kLong);
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const at::Tensor one = sequence_tensor(sequences[i]);
    const auto length = one.size(0);
    MOELORA_CHECK(length <= columns, "golden.json: sequence ", i, " is longer than the padded batch");
    ids[static_cast<std::int64_t>(i)].narrow(0, left ? columns - length : 0, length).copy_(one);
  }
  return ids;
}

void verify_golden_json(const nlohmann::ordered_json& golden, GoldenFile& file,
                        const std::map<std::string, GoldenBatch>& batches, const model::SpecialTokens& tokens,
                        VerifyReport& report) {
  if (golden.contains("sequences")) {
    for (const auto& [side, batch] : batches) {
      const at::Tensor& ids = file.peek(side + ".input_ids");
      const bool left = std::any_of(batch.begin.begin(), batch.begin.end(), [](auto first) { return first > 0; });
      compare_tensors(report, "golden.json: sequences, " + side, ids,
                      padded_sequences(golden["sequences"], ids.size(1), tokens.pad, left), 0);
    }
    if (file.contains("prompt.input_ids")) {
      nlohmann::ordered_json prompts = nlohmann::ordered_json::array();
      for (const auto& sequence : golden["sequences"]) {
        auto ids = sequence.get<std::vector<std::int64_t>>();
        const auto sop = std::find(ids.begin(), ids.end(), tokens.bos);
        ids.erase(sop == ids.end() ? sop : sop + 1, ids.end());
        prompts.push_back(ids);
      }
      const at::Tensor& ids = file.peek("prompt.input_ids");
      compare_tensors(report, "golden.json: prompts", ids, padded_sequences(prompts, ids.size(1), tokens.pad, true), 0);
    }
  }
}

/// By the first family that has tables of its own: recorded ones don't say whose they are.
model::RotaryAxis rotary_axis(const at::Tensor& positions, std::int64_t width, at::ScalarType dtype) {
  for (const auto& family : model::families()) {
    if (auto axis = family->rotary_axis(positions, width, dtype)) {
      return *std::move(axis);
    }
  }
  throw Error("no family of models computes rotary tables that these could be compared with");
}

void verify_rotary(const fs::path& path, VerifyReport& report) {
  GoldenFile golden(path, report);
  const at::Tensor positions = golden.peek("positions");
  const auto half = golden.peek("cos_fp32").size(1);
  for (const auto& [suffix, dtype] :
       {std::pair<std::string, at::ScalarType>{"fp32", at::kFloat}, {"fp16", at::kHalf}}) {
    const auto [frequencies, tables] = rotary_axis(positions, half, dtype);
    golden.compare("cos_" + suffix, tables.cos, dtype == at::kFloat ? 1e-6 : 0.0);
    golden.compare("sin_" + suffix, tables.sin, dtype == at::kFloat ? 1e-6 : 0.0);
    golden.compare("inv_freq_" + suffix, frequencies, 0.0);
  }
  // The positions are the input; they count as compared when they rebuild the angle of the slowest pair.
  const at::Tensor slowest = golden.peek("inv_freq_fp32")[-1].to(at::kDouble);
  const at::Tensor angle = at::asin(golden.peek("sin_fp32").select(1, half / 2 - 1).to(at::kDouble));
  golden.compare_equal("positions", (angle / slowest).round().to(at::kLong));
  golden.finish();
}

}  // namespace

void verify_graph(const fs::path& folder, const VerifyOptions& options, VerifyReport& report) {
  if (fs::exists(folder / "golden.safetensors") && fs::exists(folder / "config.json")) {
    const double tolerance = kTolerance * options.tolerance_factor;
    model::LoadOptions load;
    load.dtype = options.dtype;
    load.device = options.device;
    load.tokenizer = false;
    const model::LoadedModel loaded = model::load(folder, load);
    model::CausalLM& model = *loaded.model;
    const model::SpecialTokens tokens = loaded.config->special_tokens();
    GoldenFile golden(folder / "golden.safetensors", report);
    const std::map<std::string, GoldenBatch> batches = labelled_batches(golden, tokens, model);
    for (const auto& [side, batch] : batches) {
      verify_padded(side, golden, model, batch, tokens.pad, tolerance);
    }
    if (golden.contains("prompt.input_ids")) {
      verify_inputs("prompt", golden, model, read_batch(golden.peek("prompt.input_ids"), {}, tokens, model),
                    tokens.pad);
    }
    const nlohmann::ordered_json json = fs::exists(folder / "golden.json") ? io::read_json_file(folder / "golden.json")
                                                                           : nlohmann::ordered_json::object();
    for (const std::string& entry : golden.names()) {
      const auto short_name = text_between(entry, "greedy_", ".ids");
      if (!short_name) {
        continue;
      }
      const std::string name = "greedy_" + *short_name;
      const at::Tensor prompts =
          golden.contains(name + ".prompt") ? golden.peek(name + ".prompt") : golden.peek("prompt.input_ids");
      const GreedyRun run = greedy_run(model, prompts, tokens, golden.peek(name + ".logits").size(1), {});
      golden.compare_equal(name + ".ids", run.ids);
      golden.compare(name + ".logits", run.logits, tolerance);
      if (golden.contains(name + ".prompt")) {
        const auto columns = prompts.size(1);
        golden.compare_equal(name + ".prompt",
                             golden.peek("prompt.input_ids")[0]
                                 .narrow(0, golden.peek("prompt.input_ids").size(1) - columns, columns)
                                 .unsqueeze(0));
      }
      const at::Tensor new_ids = run.ids.narrow(1, prompts.size(1), run.ids.size(1) - prompts.size(1));
      if (json.contains(name + "_new_ids")) {
        const auto& expected = json[name + "_new_ids"];
        std::vector<at::Tensor> rows;
        if (expected.front().is_array()) {
          for (const auto& row : expected) {
            rows.push_back(sequence_tensor(row));
          }
        } else {
          rows.push_back(sequence_tensor(expected));
        }
        compare_tensors(report, "golden.json: " + name + "_new_ids", at::stack(rows), new_ids, 0);
      }
      if (json.contains("greedy_min_top2_margin") && json["greedy_min_top2_margin"].contains(*short_name)) {
        const at::Tensor best = std::get<0>(run.logits.topk(2, 2));
        compare_numbers(report, "golden.json: greedy_min_top2_margin, " + *short_name,
                        json["greedy_min_top2_margin"][*short_name].get<double>(),
                        (best.select(2, 0) - best.select(2, 1)).min().item<double>(), tolerance);
      }
    }
    for (const std::string& name : golden.names()) {
      if (const auto positions = number_between(name, "rotary.cos", "")) {
        const at::Tensor& cosines = golden.peek(name);
        const nn::RotaryTables tables =
            rotary_axis(at::arange(cosines.size(0), at::kLong), cosines.size(1), at::kFloat).tables;
        golden.compare(name, tables.cos, 1e-6);
        golden.compare("rotary.sin" + std::to_string(*positions), tables.sin, 1e-6);
      }
    }
    for (const auto& [side, batch] : batches) {
      if (json.contains("loss_" + side) && golden.contains(side + ".loss")) {
        compare_numbers(report, "golden.json: loss_" + side, json["loss_" + side].get<double>(),
                        golden.peek(side + ".loss").item<double>(), 1e-6);
      }
    }
    verify_golden_json(json, golden, batches, tokens, report);
    golden.finish();
    // Other forms of the same weights in this folder.
    if (fs::exists(folder / "pytorch_model.bin.index.json") && fs::exists(folder / "model.safetensors")) {
      const auto stored = io::load_safetensors(folder / "model.safetensors");
      const auto index = io::read_json_file(folder / "pytorch_model.bin.index.json");
      std::set<std::string> shards;
      for (const auto& entry : index.at("weight_map").items()) {
        shards.insert(entry.value().get<std::string>());
      }
      std::size_t found = 0;
      for (const std::string& shard : shards) {
        for (const auto& [name, tensor] : io::load_torch_checkpoint(folder / shard)) {
          MOELORA_CHECK(stored.contains(name), shard, " holds ", name, ", which model.safetensors lacks");
          compare_tensors(report, shard + ": " + name, stored.at(name), tensor.to(at::kFloat), 0);
          ++found;
        }
      }
      compare_numbers(report, "pytorch_model.bin.index.json: tensors", static_cast<double>(stored.size()),
                      static_cast<double>(found), 0);
    }
  }
  for (const auto& [width, path] : files_like(folder, "rotary_dim", ".safetensors")) {
    verify_rotary(path, report);
  }
}

}  // namespace moelora::verify
