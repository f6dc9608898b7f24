#include "golden.h"

#include <ATen/ATen.h>

#include <charconv>
#include <cmath>
#include <limits>

#include "moelora/io/error.h"
#include "moelora/io/finite.h"
#include "moelora/io/safetensors.h"
#include "moelora/io/utf8.h"
#include "moelora/model/generation.h"

namespace moelora::verify {
namespace {

Comparison failure(const std::string& name, double tolerance, const std::string& detail) {
  Comparison result;
  result.name = name;
  result.tolerance = tolerance;
  result.difference = std::numeric_limits<double>::quiet_NaN();
  result.detail = detail;
  return result;
}

/// Compares whole tensors, or where `mask` is true if that is defined. Infinities of both sides would agree, and no
/// tolerance means anything beside them: every value of both sides must be finite, masked ones too.
Comparison compared(const std::string& name, const at::Tensor& expected, const at::Tensor& found,
                    const at::Tensor& mask, double tolerance) {
  if (expected.sizes() != found.sizes()) {
    return failure(name, tolerance, detail::concat("expected shape ", expected.sizes(), ", found ", found.sizes()));
  }
  for (const auto& [side, values] :
       {std::pair<const char*, const at::Tensor&>{"the golden", expected}, {"this build's result", found}}) {
    if (const std::string problem = io::describe_not_finite(values); !problem.empty()) {
      return failure(name, tolerance, detail::concat("in ", side, " ", problem));
    }
  }
  if (!std::isfinite(tolerance)) {
    return failure(name, tolerance, "the tolerance is not finite");
  }
  at::Tensor difference = (expected.to(at::kDouble) - found.detach().cpu().to(at::kDouble)).abs();
  if (mask.defined()) {
    difference = difference.index({mask});
  }
  if (difference.numel() == 0) {
    return failure(name, tolerance, "holds no values, so nothing was compared");
  }
  Comparison result;
  result.name = name;
  result.values = difference.numel();
  result.tolerance = tolerance;
  result.difference = difference.max().item<double>();
  result.passed = result.difference <= tolerance;
  return result;
}

}  // namespace

GoldenFile::GoldenFile(const std::filesystem::path& path, VerifyReport& report)
    : file_(path.filename().string()), tensors_(io::load_safetensors(path)), report_(report) {}

const at::Tensor& GoldenFile::peek(const std::string& name) const {
  const auto found = tensors_.find(name);
  MOELORA_CHECK(found != tensors_.end(), file_, " lacks the tensor ", name);
  return found->second;
}

std::vector<std::string> GoldenFile::names() const {
  std::vector<std::string> names;
  for (const auto& entry : tensors_) {
    names.push_back(entry.first);
  }
  return names;
}

void compare_tensors(VerifyReport& report, const std::string& name, const at::Tensor& expected, const at::Tensor& found,
                     double tolerance) {
  report.comparisons.push_back(compared(name, expected, found, {}, tolerance));
}

void GoldenFile::compare(const std::string& name, const at::Tensor& found, double tolerance) {
  compared_.insert(name);
  compare_tensors(report_, label(name), peek(name), found, tolerance);
}

void GoldenFile::compare_equal(const std::string& name, const at::Tensor& found) { compare(name, found, 0.0); }

void GoldenFile::compare_relative(const std::string& name, const at::Tensor& found, double tolerance) {
  const at::Tensor& expected = peek(name);
  const bool usable = expected.numel() > 0 && io::all_finite(expected);  // else the comparison fails by itself
  compare(name, found, usable ? tolerance * expected.abs().max().item<double>() : 0.0);
}

void GoldenFile::compare_rows(const std::string& name, const at::Tensor& found, const at::Tensor& mask,
                              double tolerance) {
  compared_.insert(name);
  report_.comparisons.push_back(compared(label(name), peek(name), found, mask, tolerance));
  const auto pads = mask.numel() - mask.sum().item<std::int64_t>();
  if (pads > 0) {
    report_.skipped.push_back(label(name) + ": " + std::to_string(pads) + " pad rows");
  }
}

void GoldenFile::compare_masked(const std::string& name, const at::Tensor& found, const at::Tensor& mask,
                                double tolerance, const std::string& what) {
  if (mask.any().item<bool>()) {
    compared_.insert(name);
    report_.comparisons.push_back(compared(label(name) + what, peek(name), found, mask, tolerance));
  }
}

void GoldenFile::finish() {
  if (tensors_.empty()) {
    report_.not_compared.push_back(file_ + ": holds no tensors");
  }
  for (const auto& entry : tensors_) {
    if (!compared_.contains(entry.first)) {
      report_.not_compared.push_back(label(entry.first));
    }
  }
}

void compare_numbers(VerifyReport& report, const std::string& name, double expected, double found, double tolerance) {
  compare_tensors(report, name, at::scalar_tensor(expected, at::kDouble), at::scalar_tensor(found, at::kDouble),
                  tolerance);
}

void compare_json(VerifyReport& report, const std::string& name, const nlohmann::ordered_json& expected,
                  const nlohmann::ordered_json& found) {
  Comparison result;
  result.name = name;
  result.values = expected.is_array() ? static_cast<std::int64_t>(expected.size()) : 1;
  result.passed = expected == found;
  result.difference = result.passed ? 0 : 1;
  if (!result.passed) {
    const auto shown = [](const nlohmann::ordered_json& json) {
      return io::shortened(json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace), 200);
    };
    result.detail = "expected " + shown(expected) + ", found " + shown(found);
  }
  report.comparisons.push_back(std::move(result));
}

std::optional<std::string> text_between(const std::string& name, const std::string& before, const std::string& after) {
  if (name.size() <= before.size() + after.size() || !name.starts_with(before) || !name.ends_with(after)) {
    return std::nullopt;
  }
  return name.substr(before.size(), name.size() - before.size() - after.size());
}

std::optional<std::int64_t> number_between(const std::string& name, const std::string& before,
                                           const std::string& after) {
  const auto text = text_between(name, before, after);
  std::int64_t number = 0;
  if (!text || std::from_chars(text->data(), text->data() + text->size(), number).ptr != text->data() + text->size()) {
    return std::nullopt;
  }
  return number;
}

std::map<std::string, std::filesystem::path> files_like(const std::filesystem::path& folder, const std::string& before,
                                                        const std::string& after) {
  std::map<std::string, std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (const auto text = text_between(entry.path().filename().string(), before, after);
        text && entry.is_regular_file()) {
      files.emplace(*text, entry.path());
    }
  }
  return files;
}

at::Tensor GoldenBatch::pad(const at::Tensor& rows) const {
  auto shape = rows.sizes().vec();
  shape[0] = columns;
  shape.insert(shape.begin(), segments.count());
  at::Tensor padded = at::zeros(shape, rows.options().requires_grad(false));
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    padded[i]
        .narrow(0, begin[i], segments.length(i))
        .copy_(rows.detach().narrow(0, segments.offsets[i], segments.length(i)));
  }
  return padded;
}

GoldenBatch read_batch(const at::Tensor& ids, const at::Tensor& labels, const model::SpecialTokens& tokens,
                       const model::CausalLM& model) {
  GoldenBatch batch;
  batch.columns = ids.size(1);
  batch.real = at::zeros(ids.sizes(), at::kBool);
  std::vector<std::int64_t> lengths, label_begins, label_rows;
  std::vector<at::Tensor> parts, label_parts;
  std::int64_t row = 0;
  for (std::int64_t i = 0; i < ids.size(0); ++i) {
    const auto* id = ids[i].const_data_ptr<std::int64_t>();
    std::int64_t first = 0;
    while (first < batch.columns && id[first] == tokens.pad) {
      ++first;
    }
    std::int64_t end = batch.columns;
    if (labels.defined()) {  // pads at the right end carry the label -100, real targets their token
      const auto* label = labels[i].const_data_ptr<std::int64_t>();
      while (end > first && label[end - 1] == -100) {
        --end;
      }
    }
    std::int64_t sop = first;
    while (sop < end && id[sop] != tokens.bos) {
      ++sop;
    }
    MOELORA_CHECK(sop < end && sop > first, "golden sequence ", i, " has no token that opens its answer (id ",
                  tokens.bos, ")");
    batch.begin.push_back(first);
    lengths.push_back(end - first);
    label_begins.push_back(sop - first);
    parts.push_back(ids[i].narrow(0, first, end - first));
    batch.real[i].narrow(0, first, end - first).fill_(true);
    for (std::int64_t j = sop; j < end; ++j) {
      label_rows.push_back(row + j - 1 - first);
    }
    label_parts.push_back(ids[i].narrow(0, sop, end - sop));
    row += end - first;
  }
  batch.ids = at::cat(parts);
  batch.segments = model.segments(lengths, label_begins);
  batch.label_rows = at::tensor(label_rows, at::kLong);
  batch.labels = at::cat(label_parts);
  return batch;
}

std::map<std::string, GoldenBatch> labelled_batches(const GoldenFile& golden, const model::SpecialTokens& tokens,
                                                    const model::CausalLM& model) {
  std::map<std::string, GoldenBatch> batches;
  for (const std::string& name : golden.names()) {
    const auto side = text_between(name, "", ".labels");
    if (side && golden.contains(*side + ".input_ids")) {
      batches.emplace(*side, read_batch(golden.peek(*side + ".input_ids"), golden.peek(name), tokens, model));
    }
  }
  return batches;
}

GraphRun run_graph(model::CausalLM& model, const GoldenBatch& batch, const nn::RowContext& context) {
  const auto device = model.device();
  const at::Tensor hidden = model.hidden(batch.ids.to(device), model.positions(batch.segments).to(device), context);
  const at::Tensor losses =
      model::token_losses(model, hidden.index_select(0, batch.label_rows.to(device)), batch.labels.to(device));
  at::Tensor logits;
  {
    at::NoGradGuard guard;
    logits = model.logits(hidden.detach()).to(at::kFloat).cpu();
  }
  return {logits, losses.mean()};
}

std::vector<at::Tensor> hidden_states(model::CausalLM& model, const GoldenBatch& batch, const nn::RowContext& context) {
  const auto device = model.device();
  const auto blocks = static_cast<std::size_t>(model.shape().layers);
  std::vector<at::Tensor> outputs;  // the embedding's, each block's, the last norm's
  model.visit_outputs(batch.ids.to(device), model.positions(batch.segments).to(device), context,
                      [&](const std::string&, const at::Tensor& output) {
                        outputs.push_back(output);
                        return outputs.size() < blocks + 2;
                      });
  MOELORA_CHECK(outputs.size() == blocks + 2, "expected a graph that shows the outputs of its ", blocks,
                " blocks, found ", outputs.size(), " outputs; override CausalLM::visit_outputs");
  outputs.erase(outputs.end() - 2);  // the last block's: what follows is its norm
  return outputs;
}

GreedyRun greedy_run(model::CausalLM& model, const at::Tensor& prompts, const model::SpecialTokens& tokens,
                     std::int64_t new_tokens, const nn::ContextMaker& context) {
  const GoldenBatch batch = read_batch(prompts, {}, tokens, model);
  std::vector<model::Prompt> golden_prompts;
  for (std::int64_t i = 0; i < batch.segments.count(); ++i) {
    const auto* id = batch.ids.const_data_ptr<std::int64_t>();
    golden_prompts.push_back(
        {{id + batch.segments.offsets[i], id + batch.segments.offsets[i + 1]}, batch.segments.bidirectional[i]});
  }
  model::GenerationOptions options;
  options.beyond_longest_sequence = true;
  options.max_new_tokens = new_tokens;
  std::vector<at::Tensor> steps;
  const auto results = model::generate(
      model, golden_prompts, options, context, {},
      [&](const at::Tensor& logits, const std::vector<std::int64_t>&) { steps.push_back(logits.clone()); });
  GreedyRun run;
  run.logits = at::stack(steps, 1);
  std::vector<at::Tensor> rows;
  for (const model::Generation& result : results) {
    rows.push_back(at::tensor(result.ids, at::kLong));
  }
  run.ids = at::cat({prompts, at::stack(rows)}, 1);
  return run;
}

}  // namespace moelora::verify
