// Merging one task into all weights, beside copying them.

#include <ATen/ATen.h>

#include <iostream>

#include "cases.h"
#include "model_s.h"
#include "moelora/adapter/merge.h"
#include "moelora/io/dtype.h"

namespace moelora::bench {
namespace {

constexpr const char* kTasksToSwitch[] = {"task 0", "task 1"};

/// The bar is about model S as it is, in fp32, without certificate; the other kinds are printed as lines without a row.
void report_merge(const std::string& measure, bool has_bar, const Paired& paired) {
  const auto details = details_of(paired, "merge_for_task", "at::copy_");
  if (has_bar) {
    report({10, measure, "", 1.0, 0.75}, paired.ratio, details);
    return;
  }
  nlohmann::ordered_json line{
      {"measure", measure}, {"value", paired.ratio.median}, {"low", paired.ratio.low}, {"high", paired.ratio.high}};
  line.update(details);
  std::cout << line.dump() << std::endl;
}

// Each kind of merge of model S in one dtype.
void merging_in(at::ScalarType dtype, const Options& options) {
  model::ChatGlm model = model_s();
  model->to(dtype);
  Adapter adapter = adapter_s(model, adapter_config_s());
  std::vector<at::Tensor> weights, copies;
  for (const auto& linear : adapter->linears()) {
    weights.push_back(linear.base->weight.detach());
    copies.push_back(at::zeros_like(weights.back()));
  }
  const auto copy = [&](int) {
    for (std::size_t i = 0; i < weights.size(); ++i) {
      copies[i].copy_(weights[i]);
    }
  };
  const std::string in_dtype = " (" + io::dtype_name(dtype) + ")";
  for (const bool measure : {false, true}) {
    const std::string how = in_dtype + (measure ? ", with certificate" : "");
    const bool has_bar = dtype == at::kFloat && !measure;
    MergeOptions merge;
    merge.measure = measure;
    // A merge that keeps nothing happens once; here it is forgotten, so that it can happen again.
    merge.keep_base = MergeOptions::KeepBase::none;
    const Paired first = measure_paired(
        [&](int round) {
          merge_for_task(adapter, kTasksToSwitch[round % 2], merge);
          adapter->set_merge_state(nullptr);
          for (const auto& linear : adapter->linears()) {
            linear.base->merged_adapter.clear();
          }
        },
        copy, options);
    report_merge("S: merge in place, nothing kept / copy of the weights" + how, has_bar, first);
    merge.keep_base = MergeOptions::KeepBase::device;
    const Paired again =
        measure_paired([&](int round) { merge_for_task(adapter, kTasksToSwitch[round % 2], merge); }, copy, options);
    report_merge("S: switch of the merged task / copy of the weights" + how, has_bar, again);
    unmerge(adapter);
  }
}

}  // namespace

void merging(const Options& options) {
  for (const auto dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
    merging_in(dtype, options);
  }
}

}  // namespace moelora::bench
