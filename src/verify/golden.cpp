#include "golden.h"

#include <ATen/ATen.h>

#include "moelora/io/error.h"
#include "moelora/io/safetensors.h"
#include "moelora/model/generation.h"

namespace moelora::verify {
namespace {

Comparison make_comparison(const std::string& name, const at::Tensor& difference, double tolerance) {
  Comparison result;
  result.name = name;
  result.values = difference.numel();
  result.tolerance = tolerance;
  const double largest = difference.numel() == 0 ? 0.0 : difference.max().item<double>();
  result.difference = largest;
  result.passed = largest <= tolerance;  // false for NaN
  return result;
}

Comparison shape_problem(const std::string& name, const at::Tensor& expected, const at::Tensor& found) {
  Comparison result;
  result.name = name;
  result.detail = detail::concat("expected shape ", expected.sizes(), ", found ", found.sizes());
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
  if (expected.sizes() != found.sizes()) {
    report.comparisons.push_back(shape_problem(name, expected, found));
    return;
  }
  const at::Tensor difference = (expected.to(at::kDouble) - found.detach().cpu().to(at::kDouble)).abs();
  report.comparisons.push_back(make_comparison(name, difference, tolerance));
}

void GoldenFile::compare(const std::string& name, const at::Tensor& found, double tolerance) {
  compared_.insert(name);
  compare_tensors(report_, label(name), peek(name), found, tolerance);
}

void GoldenFile::compare_equal(const std::string& name, const at::Tensor& found) { compare(name, found, 0.0); }

void GoldenFile::compare_relative(const std::string& name, const at::Tensor& found, double tolerance) {
  compare(name, found, tolerance * peek(name).abs().max().item<double>());
}

void GoldenFile::compare_rows(const std::string& name, const at::Tensor& found, const at::Tensor& mask,
                              double tolerance) {
  compared_.insert(name);
  const at::Tensor& expected = peek(name);
  if (expected.sizes() != found.sizes()) {
    report_.comparisons.push_back(shape_problem(label(name), expected, found));
    return;
  }
  const at::Tensor difference = (expected.to(at::kDouble) - found.detach().cpu().to(at::kDouble)).abs();
  report_.comparisons.push_back(make_comparison(label(name), difference.index({mask}), tolerance));
  const auto pads = mask.numel() - mask.sum().item<std::int64_t>();
  if (pads > 0) {
    report_.skipped.push_back(label(name) + ": " + std::to_string(pads) + " pad rows");
  }
}

void GoldenFile::finish() {
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
    result.detail = "expected " + expected.dump().substr(0, 200) + ", found " + found.dump().substr(0, 200);
  }
  report.comparisons.push_back(std::move(result));
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

GoldenBatch read_batch(const at::Tensor& ids, const at::Tensor& labels, const model::ChatGlmConfig& config) {
  GoldenBatch batch;
  batch.columns = ids.size(1);
  batch.real = at::zeros(ids.sizes(), at::kBool);
  std::vector<std::int64_t> lengths, contexts, label_rows;
  std::vector<at::Tensor> parts, label_parts;
  std::int64_t row = 0;
  for (std::int64_t i = 0; i < ids.size(0); ++i) {
    const auto* id = ids[i].const_data_ptr<std::int64_t>();
    std::int64_t first = 0;
    while (first < batch.columns && id[first] == config.pad_token_id) {
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
    while (sop < end && id[sop] != config.bos_token_id) {
      ++sop;
    }
    MOELORA_CHECK(sop < end && sop > first, "golden sequence ", i, " has no <sop> (id ", config.bos_token_id, ")");
    batch.begin.push_back(first);
    lengths.push_back(end - first);
    contexts.push_back(sop - first);
    parts.push_back(ids[i].narrow(0, first, end - first));
    batch.real[i].narrow(0, first, end - first).fill_(true);
    for (std::int64_t j = sop; j < end; ++j) {
      label_rows.push_back(row + j - 1 - first);
    }
    label_parts.push_back(ids[i].narrow(0, sop, end - sop));
    row += end - first;
  }
  batch.ids = at::cat(parts);
  batch.segments = nn::Segments::from_lengths(lengths, contexts);
  batch.label_rows = at::tensor(label_rows, at::kLong);
  batch.labels = at::cat(label_parts);
  return batch;
}

GraphRun run_graph(model::ChatGlmImpl& model, const GoldenBatch& batch, const nn::RowContext& context) {
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

GreedyRun greedy_run(model::ChatGlmImpl& model, const at::Tensor& prompts, std::int64_t new_tokens,
                     const MakeContext& context) {
  const GoldenBatch batch = read_batch(prompts, {}, model.config());
  std::vector<model::TokenIds> ids;
  for (std::int64_t i = 0; i < batch.segments.count(); ++i) {
    const at::Tensor row = batch.ids.narrow(0, batch.segments.offsets[i], batch.segments.length(i));
    ids.emplace_back(row.const_data_ptr<std::int64_t>(), row.const_data_ptr<std::int64_t>() + row.size(0));
  }
  model::GenerationOptions options;
  options.max_new_tokens = new_tokens;
  std::vector<at::Tensor> steps;
  const auto results = model::generate(
      model, ids, batch.segments.context, options, context, {},
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
