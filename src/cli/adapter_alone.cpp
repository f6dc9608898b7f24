#include "cli/adapter_alone.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <map>

#include "moelora/adapter/adapter_file.h"
#include "moelora/io/error.h"
#include "moelora/io/safetensors.h"
#include "moelora/io/torch_checkpoint.h"

namespace moelora::cli {
namespace {

std::map<std::string, std::vector<std::int64_t>> shapes_in(const std::filesystem::path& folder, ForeignFormat format) {
  std::map<std::string, std::vector<std::int64_t>> shapes;
  const std::filesystem::path bin = folder / "adapter_model.bin";
  if (format != ForeignFormat::none && !std::filesystem::exists(folder / "adapter_model.safetensors") &&
      std::filesystem::exists(bin)) {
    for (const auto& [name, tensor] : io::load_torch_checkpoint(bin)) {
      shapes[name] = tensor.sizes().vec();
    }
    return shapes;
  }
  const char* file = format == ForeignFormat::none ? "adapter.safetensors" : "adapter_model.safetensors";
  const io::SafetensorsFile tensors(folder / file);
  for (const auto& [name, info] : tensors.entries()) {
    shapes[name] = info.shape;
  }
  return shapes;
}

class WeightlessBase : public torch::nn::Module, public nn::PrefixHost {
 public:
  explicit WeightlessBase(const nn::PrefixShape& shape) : shape_(shape) {}
  nn::PrefixShape prefix_shape() const override { return shape_; }

 private:
  nn::PrefixShape shape_;
};

// A shape that gives an adapter file's prefix the right tensors: how many heads and, without projection, how many
// layers it was made for can't be seen from them, nor does it matter to who only reads them.
nn::PrefixShape prefix_shape_in(const std::filesystem::path& folder) {
  const auto shapes = shapes_in(folder, ForeignFormat::none);
  const auto embedding = shapes.find("prefix.embedding");
  if (embedding == shapes.end() || embedding->second.size() != 2) {
    return {1, 1, 1};
  }
  const std::int64_t columns = embedding->second[1];
  const auto output = shapes.find("prefix.output.weight");
  return output == shapes.end() || output->second.empty()
             ? nn::PrefixShape{1, 1, columns / 2}
             : nn::PrefixShape{output->second[0] / std::max<std::int64_t>(1, 2 * columns), 1, columns};
}

using ModulesByName = std::map<std::string, std::shared_ptr<torch::nn::Module>>;

// The module that holds `name`, made with all above it where it is not there yet, and the last part of the name.
std::pair<std::shared_ptr<torch::nn::Module>, std::string> place_of(const std::string& name, ModulesByName& modules) {
  std::shared_ptr<torch::nn::Module> parent = modules.at("");
  std::size_t begin = 0;
  for (std::size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', begin)) {
    auto& module = modules[name.substr(0, dot)];
    if (!module) {
      module = parent->register_module(name.substr(begin, dot - begin), std::make_shared<torch::nn::Module>());
    }
    parent = module;
    begin = dot + 1;
  }
  return {parent, name.substr(begin)};
}

// Modules named as in the base, with linears at the leaves whose weight is one zero seen through strides of 0.
std::shared_ptr<torch::nn::Module> weightless_base(const std::vector<AdaptedShape>& linears,
                                                   const nn::PrefixShape& prefix, ModulesByName& modules) {
  std::shared_ptr<torch::nn::Module> root = std::make_shared<WeightlessBase>(prefix);
  modules = {{"", root}};
  for (const AdaptedShape& shape : linears) {
    const auto [parent, name] = place_of(shape.name, modules);
    const at::Tensor weight = at::zeros({1, 1}).expand({shape.out_features, shape.in_features});
    parent->register_module(name, nn::Linear(weight));
  }
  return root;
}

// What travels with the adapter whole, as parameters of modules of the base's names.
void add_saved_modules(const std::filesystem::path& folder, ModulesByName& modules) {
  constexpr std::string_view kPrefix = "modules_to_save.";
  for (const auto& [name, shape] : shapes_in(folder, ForeignFormat::none)) {
    if (name.starts_with(kPrefix)) {
      const auto [parent, parameter] = place_of(name.substr(kPrefix.size()), modules);
      parent->register_parameter(parameter, at::zeros(shape));
    }
  }
}

}  // namespace

std::vector<AdaptedShape> adapted_shapes(const std::filesystem::path& folder, ForeignFormat format) {
  std::map<std::string, AdaptedShape> found;
  for (const auto& [name, shape] : shapes_in(folder, format)) {
    // Ours: linears.NAME.A. Others: base_model.model.NAME.lora_A.weight, or one such tensor for each expert.
    const bool ours = format == ForeignFormat::none;
    const std::string_view prefix = ours ? "linears." : "base_model.model.";
    const std::size_t a = ours && name.ends_with(".A") ? name.size() - 2
                          : ours                       ? std::string::npos
                                                       : name.find(".lora_A.");
    const std::size_t b = ours && name.ends_with(".B") ? name.size() - 2
                          : ours                       ? std::string::npos
                                                       : name.find(".lora_B.");
    const std::size_t end = a != std::string::npos ? a : b;
    if (end == std::string::npos || !name.starts_with(prefix) || shape.size() != 2 || end <= prefix.size()) {
      continue;
    }
    AdaptedShape& linear = found[name.substr(prefix.size(), end - prefix.size())];
    (a != std::string::npos ? linear.in_features : linear.out_features) = shape[a != std::string::npos ? 1 : 0];
  }
  std::vector<AdaptedShape> linears;
  for (auto& [name, shape] : found) {
    shape.name = name;
    MOELORA_CHECK(shape.in_features > 0 && shape.out_features > 0, folder.string(), ": ", name,
                  " has only one of its two matrices A and B");
    linears.push_back(shape);
  }
  return linears;
}

AdapterAlone load_adapter_alone(const std::filesystem::path& folder) {
  read_adapter_info(folder);  // its errors say more about a wrong folder
  ModulesByName modules;
  AdapterAlone alone{weightless_base(adapted_shapes(folder, ForeignFormat::none), prefix_shape_in(folder), modules)};
  add_saved_modules(folder, modules);
  alone.adapter = load_adapter(*alone.base, folder, "", "");
  return alone;
}

AdapterAlone load_foreign_adapter_alone(const std::filesystem::path& folder, const ForeignOptions& options) {
  const ForeignFormat format = detect_foreign(folder);
  MOELORA_CHECK(format != ForeignFormat::none, folder.string(),
                ": expected an adapter of PEFT (LORA) or MOELoRA-peft (adapter_config.json, adapter_model.*), found ",
                is_adapter_folder(folder) ? "one of this library, which needs no import" : "neither");
  const auto linears = adapted_shapes(folder, format);
  MOELORA_CHECK(!linears.empty(), folder.string(), ": its tensors' file adapts no linear");
  ModulesByName modules;
  AdapterAlone alone{weightless_base(linears, {1, 1, 1}, modules)};
  alone.adapter = load_foreign_adapter(*alone.base, folder, options);
  return alone;
}

}  // namespace moelora::cli
