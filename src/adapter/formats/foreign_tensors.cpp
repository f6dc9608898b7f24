#include "adapter/formats/foreign_tensors.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <set>

#include "adapter/formats/adapter_loading.h"
#include "moelora/io/error.h"
#include "moelora/io/safetensors.h"
#include "moelora/io/saved_names.h"
#include "moelora/io/torch_checkpoint.h"
#include "moelora/log/log.h"

namespace moelora {
namespace {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, at::Tensor>;

constexpr std::size_t kShownKeys = 5;
constexpr std::size_t kLongestKey = 1000;

/// Cuts `suffix` off the end of `text`.
bool take_suffix(std::string_view& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) {
    return false;
  }
  text.remove_suffix(suffix.size());
  return true;
}

/// A key without wrappers and without the adapter's name, which save_pretrained takes out but a state dict saved by
/// hand does not: "lora_A.medical.weight" → "lora_A.weight", with "medical" in `adapters`.
std::string clean_key(const std::string& key, std::set<std::string>& adapters) {
  static constexpr std::array<std::string_view, 4> kOwners{"lora_A", "lora_B", "lora_gate", "lora_task_embedding"};
  static constexpr std::array<std::string_view, 4> kContents{"weight", "loraA", "loraB", "GateL"};
  std::string name = io::without_wrappers(key);
  for (const std::string_view owner : kOwners) {
    const std::string component = std::string(owner) + ".";
    std::size_t at = name.find(component);
    while (at != name.npos && at > 0 && name[at - 1] != '.') {
      at = name.find(component, at + 1);
    }
    if (at == name.npos) {
      continue;
    }
    const std::size_t begin = at + component.size();
    const std::size_t end = name.find('.', begin);
    const std::string next = name.substr(begin, end == name.npos ? end : end - begin);
    if (end != name.npos && std::find(kContents.begin(), kContents.end(), next) == kContents.end()) {
      adapters.insert(next);
      name.erase(begin, end + 1 - begin);
    }
    break;
  }
  return name;
}

bool same_values(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) {
    return false;
  }
  const at::Tensor left = a.to(at::kDouble);
  const at::Tensor right = b.to(at::kDouble);
  return at::allclose(left, right, /*rtol=*/0, /*atol=*/0, /*equal_nan=*/true);
}

struct StoredForeign {
  std::string key;  ///< As in the file.
  at::Tensor tensor;
};
using CleanTensors = std::map<std::string, StoredForeign>;

/// The tensors of one file by clean key.
CleanTensors read_clean(const fs::path& path) {
  const Tensors stored =
      path.extension() == ".safetensors" ? io::load_safetensors(path) : io::load_torch_checkpoint(path);
  MOELORA_CHECK(
      !stored.empty(), path.string(), " is empty: a state dict without tensors was saved. Scripts that ",
      "replace model.state_dict before save_pretrained write such files; save the adapter again without that");
  CleanTensors clean;
  std::set<std::string> adapters;
  for (const auto& [key, tensor] : stored) {
    MOELORA_CHECK(key.size() <= kLongestKey, path.string(), ": expected names of tensors, found one of ", key.size(),
                  " characters; the file is damaged");
    const std::string name = clean_key(key, adapters);
    const auto [place, fresh] = clean.emplace(name, StoredForeign{key, tensor});
    MOELORA_CHECK(fresh || same_values(place->second.tensor, tensor), path.string(), ": ", place->second.key, " and ",
                  key, " name one tensor, and their values differ; save the adapter again with save_pretrained");
  }
  MOELORA_CHECK(adapters.size() <= 1, path.string(), " holds the adapters ",
                io::in_a_row({adapters.begin(), adapters.end()}),
                " in one file; save one of them with save_pretrained(selected_adapters=[NAME])");
  return clean;
}

/// Says which of two files was read, and how they differ.
void compare_with_other_form(const CleanTensors& read, const fs::path& path, const fs::path& other) {
  const std::string which = detail::concat("read ", path.filename().string(), " of ", path.parent_path().string(), "; ",
                                           other.filename().string(), " beside it ");
  std::vector<std::string> differing;
  try {
    const CleanTensors beside = read_clean(other);
    for (const auto& [name, stored] : read) {
      const auto found = beside.find(name);
      if (found == beside.end()) {
        differing.push_back(stored.key + " (missing there)");
      } else if (!same_values(stored.tensor, found->second.tensor)) {
        differing.push_back(stored.key);
      }
    }
    for (const auto& [name, stored] : beside) {
      if (!read.contains(name)) {
        differing.push_back(stored.key + " (only there)");
      }
    }
  } catch (const Error& error) {
    log::warning(which + "was not read, and can't be: " + error.what());
    return;
  }
  if (differing.empty()) {
    log::info(which + "holds the same tensors");
    return;
  }
  log::warning(detail::concat(which, "was not read and holds another adapter: ", differing.size(),
                              " tensors differ; remove the file that is not meant", listed(differing, kShownKeys)));
}

/// "<linear>.lora_A.loraA.3" → linear, 3.
std::optional<std::int64_t> take_expert(std::string_view& text, std::string_view middle) {
  const auto dot = text.rfind('.');
  if (dot == text.npos) {
    return std::nullopt;
  }
  const auto number = text.substr(dot + 1);
  std::int64_t expert = -1;
  const auto [stop, failure] = std::from_chars(number.data(), number.data() + number.size(), expert);
  auto rest = text.substr(0, dot);
  if (failure != std::errc() || stop != number.data() + number.size() || expert < 0 || !take_suffix(rest, middle)) {
    return std::nullopt;
  }
  text = rest;
  return expert;
}

/// Stores a factor; the reference writes each twice (`.weight` and `.mlp.weight` are one parameter there).
void keep_factor(std::map<std::int64_t, at::Tensor>& factors, std::int64_t expert, const std::string& key,
                 const at::Tensor& tensor, std::vector<std::string>& problems) {
  const auto [place, fresh] = factors.emplace(expert, tensor);
  if (!fresh && !(place->second.sizes() == tensor.sizes() && at::equal(place->second, tensor))) {
    problems.push_back(key + ": differs from its alias (.weight and .mlp.weight are one tensor); the file is damaged");
  }
}

bool sort_moelora_key(const std::string& clean, const std::string& key, const at::Tensor& tensor,
                      ForeignTensors& sorted) {
  if (clean == "lora_task_embedding.weight") {
    sorted.task_embedding = tensor;
    return true;
  }
  if (clean == "lora_gate.GateL.weight") {
    sorted.gate = tensor;
    return true;
  }
  std::string_view name = clean;
  if (take_suffix(name, ".lora_task_embedding.weight")) {
    sorted.linears[std::string(name)].task_embedding = tensor;
    return true;
  }
  if (take_suffix(name, ".lora_gate.GateL.weight")) {
    sorted.linears[std::string(name)].gate = tensor;
    return true;
  }
  if (!take_suffix(name, ".mlp.weight") && !take_suffix(name, ".weight")) {
    return false;
  }
  if (const auto expert = take_expert(name, ".lora_A.loraA")) {
    keep_factor(sorted.linears[std::string(name)].A, *expert, key, tensor, sorted.problems);
    return true;
  }
  if (const auto expert = take_expert(name, ".lora_B.loraB")) {
    keep_factor(sorted.linears[std::string(name)].B, *expert, key, tensor, sorted.problems);
    return true;
  }
  return false;
}

bool sort_peft_key(const std::string& clean, const at::Tensor& tensor, ForeignTensors& sorted) {
  std::string_view name = clean;
  if (take_suffix(name, ".lora_A.weight")) {
    sorted.linears[std::string(name)].A[0] = tensor;
    return true;
  }
  if (take_suffix(name, ".lora_B.weight")) {
    sorted.linears[std::string(name)].B[0] = tensor;
    return true;
  }
  return false;
}

/// Why a key has no place in an adapter.
std::string unknown_because(const std::string& key) {
  static constexpr std::pair<std::string_view, const char*> kKnownKinds[] = {
      {"lora_magnitude_vector", "DoRA's magnitudes, which this library does not follow"},
      {"lora_embedding_", "LoRA on an embedding, which this library does not follow"},
      {"modules_to_save", "a module trained as a whole (modules_to_save), which has no place in an adapter here"},
      {"lora_", "expected <linear>.lora_A.weight and <linear>.lora_B.weight"},
  };
  for (const auto& [part, reason] : kKnownKinds) {
    if (key.find(part) != key.npos) {
      return reason;
    }
  }
  return "no tensor of an adapter; were the base's weights saved with it? Save the adapter alone, with save_pretrained";
}

void report_unknown(const std::vector<std::string>& unknown, std::vector<std::string>& problems) {
  std::map<std::string, std::vector<std::string>> by_reason;
  for (const std::string& key : unknown) {
    by_reason[unknown_because(key)].push_back(key);
  }
  for (const auto& [reason, keys] : by_reason) {
    for (std::size_t i = 0; i < std::min(kShownKeys, keys.size()); ++i) {
      problems.push_back("unknown key " + keys[i] + " (" + reason + ")");
    }
    if (keys.size() > kShownKeys) {
      problems.push_back(detail::concat("… ", keys.size(), " such keys in all"));
    }
  }
}

}  // namespace

std::vector<ForeignShape> ForeignTensors::shapes() const {
  std::vector<ForeignShape> result;
  for (const auto& [name, linear] : linears) {
    if (linear.A.empty() || linear.B.empty()) {
      continue;  // named on stacking
    }
    const at::Tensor& a = linear.A.begin()->second;
    const at::Tensor& b = linear.B.begin()->second;
    if (a.dim() == 2 && b.dim() == 2 && a.numel() > 0 && b.numel() > 0) {
      result.push_back({name, a.size(1), b.size(0)});
    }
  }
  return result;
}

ForeignTensors read_foreign_tensors(const fs::path& folder, bool moelora) {
  const fs::path safetensors = folder / "adapter_model.safetensors";
  const fs::path pickle = folder / "adapter_model.bin";
  const bool mapped = fs::exists(safetensors);
  const bool pickled = fs::exists(pickle);
  MOELORA_CHECK(mapped || pickled, "expected adapter_model.safetensors or adapter_model.bin in ", folder.string(),
                ", found neither; copy the whole adapter folder");
  const fs::path path = mapped ? safetensors : pickle;
  const CleanTensors tensors = read_clean(path);
  if (mapped && pickled) {
    compare_with_other_form(tensors, path, pickle);
  }
  ForeignTensors sorted;
  sorted.origin = path.string();
  std::vector<std::string> unknown;
  for (const auto& [clean, stored] : tensors) {
    const auto& [key, tensor] = stored;
    if (!at::isFloatingType(tensor.scalar_type())) {
      sorted.problems.push_back(key + ": expected floating-point values, found " + c10::toString(tensor.scalar_type()));
      continue;
    }
    const at::Tensor value = tensor.to(at::kFloat);
    if (!(moelora ? sort_moelora_key(clean, key, value, sorted) : sort_peft_key(clean, value, sorted))) {
      unknown.push_back(key);
    } else if (!at::isfinite(value).all().item<bool>()) {
      sorted.problems.push_back(key + ": expected finite numbers, found NaN or infinite ones; the training diverged, " +
                                "or the file is damaged");
    }
  }
  report_unknown(unknown, sorted.problems);
  return sorted;
}

}  // namespace moelora
