#include "moelora/adapter/prefix_checkpoint.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "adapter/formats/adapter_loading.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/saved_names.h"
#include "moelora/io/tensor_folder.h"

namespace moelora {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefixEncoder = "prefix_encoder.";
constexpr double kScriptDropout = 0.1;  // of the script's prefix, in training

/// Names behind "prefix_encoder." and in an adapter file.
constexpr std::pair<std::string_view, std::string_view> kPrefixNames[] = {{"embedding.weight", "prefix.embedding"},
                                                                          {"trans.0.weight", "prefix.hidden.weight"},
                                                                          {"trans.0.bias", "prefix.hidden.bias"},
                                                                          {"trans.2.weight", "prefix.output.weight"},
                                                                          {"trans.2.bias", "prefix.output.bias"}};

/// The part behind "prefix_encoder.", empty if that is no component of the name.
std::string_view behind_prefix_encoder(std::string_view name) {
  const auto at = name.find(kPrefixEncoder);
  if (at == name.npos || (at > 0 && name[at - 1] != '.')) {
    return {};
  }
  return name.substr(at + kPrefixEncoder.size());
}

void check_against_config(const fs::path& file, const PrefixCheckpoint& checkpoint, std::int64_t width) {
  if (!fs::exists(file)) {
    return;
  }
  const nlohmann::ordered_json json = io::read_json_file(file);
  std::vector<std::string> problems;
  const auto integer = [&](const char* key) -> std::int64_t {
    const auto found = json.is_object() ? json.find(key) : json.end();
    return found != json.end() && found->is_number_integer() ? found->get<std::int64_t>() : 0;
  };
  const auto expect = [&](const char* key, std::int64_t wanted, std::int64_t found) {
    if (wanted != 0 && wanted != found) {
      problems.push_back(detail::concat(key, ": expected ", wanted, " as config.json says, found ", found));
    }
  };
  expect("pre_seq_len", integer("pre_seq_len"), checkpoint.config.length);
  const std::int64_t hidden = integer("hidden_size");
  const std::int64_t layers = integer("num_layers");
  if (hidden > 0 && layers > 0 && hidden < (1 << 24) && layers < (1 << 24)) {
    expect("width of the prefix (2 · num_layers · hidden_size)", 2 * layers * hidden, width);
  }
  const auto projection = json.is_object() ? json.find("prefix_projection") : json.end();
  if (projection != json.end() && projection->is_boolean() && *projection != checkpoint.config.projection) {
    problems.push_back(detail::concat("prefix_projection is ", projection->dump(), ", but the tensors are those of a ",
                                      "prefix ", checkpoint.config.projection ? "with" : "without", " projection"));
  }
  MOELORA_CHECK(problems.empty(), file.string(), " does not fit the prefix beside it:", listed(problems));
}

std::string shape_of(const at::Tensor& tensor) { return detail::concat(tensor.sizes()); }

}  // namespace

std::optional<PrefixCheckpoint> read_prefix_checkpoint(const fs::path& folder) {
  if (io::TensorFolder::forms(folder).empty()) {
    return std::nullopt;
  }
  const io::TensorFolder weights(folder);
  PrefixCheckpoint checkpoint;
  std::vector<std::string> unknown;
  for (const std::string& name : weights.names()) {
    const std::string_view part = behind_prefix_encoder(name);
    if (part.empty()) {
      ++checkpoint.others;
      continue;
    }
    const auto* known = std::find_if(std::begin(kPrefixNames), std::end(kPrefixNames),
                                     [&](const auto& entry) { return entry.first == part; });
    if (known == std::end(kPrefixNames)) {
      unknown.push_back(name);
    } else {
      const bool fresh = checkpoint.tensors.emplace(known->second, weights.tensor(name, at::kFloat)).second;
      MOELORA_CHECK(fresh, folder.string(), " holds several prefixes; one of them ends in ", name);
    }
  }
  if (checkpoint.tensors.empty() && unknown.empty()) {
    return std::nullopt;
  }
  std::vector<std::string> problems;
  for (const std::string& name : unknown) {
    problems.push_back("unknown: " + name);
  }
  const auto find = [&](const char* name) {
    const auto found = checkpoint.tensors.find(name);
    return found == checkpoint.tensors.end() ? at::Tensor() : found->second;
  };
  const at::Tensor embedding = find("prefix.embedding");
  checkpoint.config.projection = checkpoint.tensors.size() > 1 || !embedding.defined();
  for (const auto& [part, ours] : kPrefixNames) {
    if (!checkpoint.tensors.contains(std::string(ours)) &&
        (checkpoint.config.projection || ours == "prefix.embedding")) {
      problems.push_back(detail::concat("missing: ", kPrefixEncoder, part));
    }
  }
  MOELORA_CHECK(problems.empty(), folder.string(), " holds no whole P-Tuning v2 prefix:", listed(problems),
                "\nexpected embedding.weight, with a projection also trans.0 and trans.2 (weight and bias)");
  const at::Tensor output = find("prefix.output.weight");
  const auto plain = [](const at::Tensor& tensor) { return tensor.dim() == 2 && tensor.numel() > 0; };
  MOELORA_CHECK(plain(embedding) && (!output.defined() || plain(output)), folder.string(),
                ": expected the prefix's weights to be matrices, found ", shape_of(embedding),
                output.defined() ? " and " + shape_of(output) : "");
  const std::int64_t width = output.defined() ? output.size(0) : embedding.size(1);
  const std::int64_t hidden = output.defined() ? embedding.size(1) : width / 2;
  MOELORA_CHECK(hidden > 0 && width % (2 * hidden) == 0, folder.string(),
                ": a prefix has a key and a value of the hidden size ",
                "for every layer, so its width must be a multiple of ", 2 * hidden, ", found ", width);
  checkpoint.config.length = embedding.size(0);
  checkpoint.config.dropout = kScriptDropout;
  checkpoint.shape = {width / (2 * hidden), 1, hidden};
  check_against_config(folder / "config.json", checkpoint, width);
  return checkpoint;
}

Adapter load_prefix_checkpoint(torch::nn::Module& base, const PrefixCheckpoint& checkpoint, const std::string& origin,
                               const std::string& task, const std::string& name) {
  MoeLoraConfig config;
  config.rank = 1;
  config.num_experts = 1;
  config.alpha = 1.0;
  config.routing = Routing::uniform;
  config.targets.clear();
  config.prefix = checkpoint.config;
  return inject_filled(base, config, TaskNames({task}), name, checkpoint.tensors, origin);
}

}  // namespace moelora
