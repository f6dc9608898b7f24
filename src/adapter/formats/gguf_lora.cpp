#include "moelora/adapter/gguf_lora.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <vector>

#include "adapter/formats/adapter_loading.h"
#include "adapter/formats/task_lora.h"
#include "moelora/io/error.h"
#include "moelora/io/gguf.h"

namespace moelora {
namespace {

constexpr const char* kArchitecture = "general.architecture";
constexpr const char* kType = "general.type";
constexpr const char* kLoraType = "adapter.type";
constexpr const char* kAlpha = "adapter.lora.alpha";
constexpr std::string_view kA = ".lora_a";
constexpr std::string_view kB = ".lora_b";

/// The layout's order of rows as an index. Error: it is no permutation of `rows` rows.
at::Tensor row_index(const io::GgufLinear& place, std::int64_t rows) {
  std::vector<bool> seen(static_cast<std::size_t>(rows));
  for (const std::int64_t row : place.rows) {
    MOELORA_CHECK(row >= 0 && row < rows && !seen[static_cast<std::size_t>(row)], place.tensor,
                  ": expected an order of its ", rows, " rows, found row ", row, " twice or out of range");
    seen[static_cast<std::size_t>(row)] = true;
  }
  MOELORA_CHECK(static_cast<std::int64_t>(place.rows.size()) == rows, place.tensor, ": expected an order of ", rows,
                " rows, found ", place.rows.size());
  return at::tensor(place.rows, at::kLong);
}

at::Tensor ordered_rows(const at::Tensor& B, const io::GgufLinear& place) {
  return place.rows.empty() ? B : B.index_select(0, row_index(place, B.size(0)));
}

at::Tensor original_rows(const at::Tensor& B, const io::GgufLinear& place) {
  return place.rows.empty() ? B : at::empty_like(B).index_copy_(0, row_index(place, B.size(0)), B);
}

void require_text(const io::GgufFile& file, const char* key, const std::string& expected, const std::string& advice) {
  MOELORA_CHECK(file.text(key) == expected, file.label(), ": expected ", key, " \"", expected, "\", found \"",
                file.text(key), "\"; ", advice);
}

/// The linears whose tensors a file holds, by the tensor's name.
std::map<std::string, std::string> linears_in(const io::GgufFile& file, const io::GgufLayout& layout) {
  std::map<std::string, std::string> by_tensor;
  for (const auto& [linear, place] : layout.linears) {
    by_tensor.emplace(place.tensor, linear);
  }
  std::map<std::string, std::string> linears;
  std::vector<std::string> problems;
  for (const auto& [name, info] : file.entries()) {
    const bool factor = name.ends_with(kA) || name.ends_with(kB);
    const std::string tensor = factor ? name.substr(0, name.size() - kA.size()) : name;
    const auto linear = by_tensor.find(tensor);
    if (!factor || linear == by_tensor.end()) {
      problems.push_back("unexpected: " + name);
    } else if (info.shape.size() != 2) {
      problems.push_back(name + ": expected a matrix");
    } else if (name.ends_with(kA) && !file.entries().contains(tensor + std::string(kB))) {
      problems.push_back("missing: " + tensor + std::string(kB));
    } else if (name.ends_with(kB) && !file.entries().contains(tensor + std::string(kA))) {
      problems.push_back("missing: " + tensor + std::string(kA));
    } else {
      linears.emplace(tensor, linear->second);
    }
  }
  MOELORA_CHECK(problems.empty(), file.label(), " does not fit the base's architecture ", layout.architecture, ":",
                listed(problems));
  MOELORA_CHECK(!linears.empty(), file.label(), " holds no factors of any linear");
  return linears;
}

}  // namespace

void export_gguf_lora(const AdapterImpl& adapter, std::string_view task, const std::filesystem::path& file,
                      const io::GgufLayout& layout, std::int64_t padded_rank) {
  const TaskLora lora = task_lora(adapter, task, padded_rank);
  io::NamedTensors tensors;
  std::vector<std::string> missing;
  for (const TaskLoraLinear& linear : lora.linears) {
    const auto place = layout.linears.find(linear.name);
    if (place == layout.linears.end()) {
      missing.push_back(linear.name);
      continue;
    }
    tensors.emplace_back(place->second.tensor + std::string(kA), linear.A);
    tensors.emplace_back(place->second.tensor + std::string(kB), ordered_rows(linear.B, place->second));
  }
  MOELORA_CHECK(missing.empty(), "llama.cpp's architecture ", layout.architecture,
                " has no tensor for:", listed(missing), "\nexport it to PEFT, or merge the task");
  require_finite_export(tensors);
  io::save_gguf(file,
                {{kArchitecture, layout.architecture},
                 {kType, std::string("adapter")},
                 {kLoraType, std::string("lora")},
                 {kAlpha, static_cast<float>(lora.alpha)},
                 {"general.name", std::string(task)}},
                tensors);
}

Adapter load_gguf_lora(torch::nn::Module& base, const std::filesystem::path& file, const io::GgufLayout& layout,
                       const std::string& task, const std::string& name) {
  const io::GgufFile gguf(file);
  require_text(gguf, kType, "adapter", "it is no adapter");
  require_text(gguf, kLoraType, "lora", "other kinds of adapters can't be read");
  require_text(gguf, kArchitecture, layout.architecture, "it belongs to another base");
  const auto linears = linears_in(gguf, layout);
  MoeLoraConfig config;
  config.num_experts = 1;
  config.routing = Routing::uniform;
  config.rank = gguf.entries().at(linears.begin()->first + std::string(kA)).shape[0];
  const auto alpha = static_cast<double>(gguf.number(kAlpha));
  config.alpha = alpha == 0.0 ? static_cast<double>(config.rank) : alpha;  // as llama.cpp: 0 means a scale of 1
  config.targets.clear();
  std::map<std::string, at::Tensor> ours;
  for (const auto& [tensor, linear] : linears) {
    const at::Tensor B = gguf.tensor(tensor + std::string(kB), at::kFloat);
    const std::int64_t rank = gguf.entries().at(tensor + std::string(kA)).shape[0];
    MOELORA_CHECK(rank == config.rank && B.size(1) == rank, gguf.label(), ": ", tensor, ": expected rank ", config.rank,
                  " as ", linears.begin()->first, ", found ", rank, " in .lora_a and ", B.size(1), " in .lora_b");
    config.targets.push_back(linear);
    ours.emplace("linears." + linear + ".A", gguf.tensor(tensor + std::string(kA), at::kFloat));
    ours.emplace("linears." + linear + ".B", original_rows(B, layout.linears.at(linear)));
  }
  config.validate();
  return inject_filled(base, config, TaskNames({task}), name, ours, gguf.label());
}

}  // namespace moelora
