#include "cli/standalone_adapter.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/prefix_checkpoint.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/safetensors.h"
#include "moelora/log/log.h"
#include "moelora/model/registry.h"

namespace moelora::cli {
namespace {

using Shapes = std::map<std::string, std::vector<std::int64_t>>;

Shapes shapes_in(const std::filesystem::path& folder) {
  Shapes shapes;
  const io::SafetensorsFile tensors(folder / "adapter.safetensors");
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
  const Shapes shapes = shapes_in(folder);
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
  constexpr std::ptrdiff_t kDeepest = 32;  // modules within modules, that many of which are made for each name
  const bool plain = name.size() <= 1000 && !name.starts_with('.') && !name.ends_with('.') &&
                     name.find("..") == std::string::npos && std::count(name.begin(), name.end(), '.') < kDeepest &&
                     modules.find(name) == modules.end();
  MOELORA_CHECK(plain, "the adapter's tensors' file names \"", name.substr(0, 200),
                "\", which no model can hold; copy the adapter again from where it was written");
  std::shared_ptr<torch::nn::Module> parent = modules.at("");
  std::size_t begin = 0;
  for (std::size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', begin)) {
    auto& module = modules[name.substr(0, dot)];
    MOELORA_CHECK(!module || !std::dynamic_pointer_cast<nn::LinearImpl>(module), "the adapter's tensors' file names ",
                  name.substr(0, dot), " as a linear and as a module that holds others");
    if (!module) {
      module = parent->register_module(name.substr(begin, dot - begin), std::make_shared<torch::nn::Module>());
    }
    parent = module;
    begin = dot + 1;
  }
  return {parent, name.substr(begin)};
}

// Modules named as in the base, with linears at the leaves whose weight is one zero seen through strides of 0.
std::shared_ptr<torch::nn::Module> weightless_base(const std::vector<ForeignShape>& linears,
                                                   const nn::PrefixShape& prefix, ModulesByName& modules) {
  std::shared_ptr<torch::nn::Module> root = std::make_shared<WeightlessBase>(prefix);
  modules = {{"", root}};
  for (const ForeignShape& shape : linears) {
    const auto [parent, name] = place_of(shape.name, modules);
    const at::Tensor weight = at::zeros({1, 1}).expand({shape.out_features, shape.in_features});
    modules[shape.name] = parent->register_module(name, nn::Linear(weight));
  }
  return root;
}

// What travels with the adapter whole, as parameters of modules of the base's names.
void add_saved_modules(const std::filesystem::path& folder, ModulesByName& modules) {
  constexpr std::string_view kPrefix = "modules_to_save.";
  for (const auto& [name, shape] : shapes_in(folder)) {
    if (name.starts_with(kPrefix)) {
      const auto [parent, parameter] = place_of(name.substr(kPrefix.size()), modules);
      parent->register_parameter(parameter, at::zeros(shape));
    }
  }
}

// The linears that an adapter of ours adapts; none in one that is a prefix alone.
std::vector<ForeignShape> adapted_shapes(const std::filesystem::path& folder) {
  std::vector<ForeignShape> linears;
  for (const auto& [name, size] : adapted_linears(folder)) {
    linears.push_back({name, size.in_features, size.out_features});
  }
  return linears;
}

// The model to which names belong, if it is one that the known families tell apart and don't have.
std::string other_model_of(const std::vector<std::string>& names) {
  std::string other;
  for (const auto& family : model::families()) {
    other = other.empty() ? family->other_model_of_names(names) : other;
  }
  return other;
}

// A config.json beside a prefix says which model's it is.
void check_family(const std::filesystem::path& config_file) {
  if (!std::filesystem::exists(config_file)) {
    return;
  }
  const nlohmann::ordered_json config = io::read_json_file(config_file);
  const auto families = model::families();
  if (config.is_object() &&
      std::any_of(families.begin(), families.end(), [&](const auto& family) { return family->recognises(config); })) {
    return;
  }
  for (const auto& family : families) {
    const std::string other = family->other_model_of_config(config);
    MOELORA_CHECK(other.empty(), config_file.string(), ": this is a prefix of ", other, "; this program runs ",
                  model::known_families());
  }
}

// The names and sizes of a known family's model whose linears these are, without weights; nullptr if there is none.
std::shared_ptr<torch::nn::Module> known_base_with(const std::vector<model::LinearShape>& linears) {
  for (const auto& family : model::families()) {
    if (const auto config = family->config_of_linears(linears)) {
      return config->make(model::weightless_tensors());
    }
  }
  return nullptr;
}

// A known family's name for a linear that has something else in front; empty if there is none.
std::string name_behind_another(const model::LinearShape& linear) {
  for (std::size_t dot = linear.name.find('.'); dot != std::string::npos; dot = linear.name.find('.', dot + 1)) {
    model::LinearShape behind = linear;
    behind.name = linear.name.substr(dot + 1);
    for (const auto& family : model::families()) {
      if (family->config_of_linears({behind})) {
        return behind.name;
      }
    }
  }
  return "";
}

std::string family_names() {
  std::string text;
  for (const auto& family : model::families()) {
    text += (text.empty() ? "" : " or ") + family->title().name + "'s";
  }
  return text;
}

std::shared_ptr<torch::nn::Module> base_with(const std::vector<ForeignShape>& linears) {
  std::vector<std::string> names;
  std::vector<model::LinearShape> shapes;
  for (const ForeignShape& linear : linears) {
    names.push_back(linear.name);
    shapes.push_back({linear.name, linear.in_features, linear.out_features});
  }
  MOELORA_CHECK(!names.empty(), "its tensors' file holds no linear with both matrices");
  if (auto base = known_base_with(shapes)) {
    return base;
  }
  const std::string other = other_model_of(names);
  MOELORA_CHECK(other.empty(), "this is an adapter of ", other, " (", names.front(), ", …); this program runs ",
                model::known_families(), ". A C++ program whose own model has these names reads it with ",
                "moelora::load_foreign_adapter");
  // A family's names behind something else would fit no base later; other names may be those of a user's own model.
  const std::string behind = name_behind_another(shapes.front());
  MOELORA_CHECK(behind.empty(), "its ", names.size(), " linears have an unknown name in front: expected ", behind,
                ", found ", names.front(), "; take what is in front off the keys of the tensors' file");
  log::warning("its linears are not named as " + family_names() + " (" + names.front() +
               ", …): the adapter fits only a model of one's own that has these names");
  ModulesByName modules;
  return weightless_base(linears, {1, 1, 1}, modules);
}

}  // namespace

StandaloneAdapter load_standalone_adapter(const std::filesystem::path& folder) {
  read_adapter_info(folder);  // its errors say more about a wrong folder
  ModulesByName modules;
  StandaloneAdapter alone{weightless_base(adapted_shapes(folder), prefix_shape_in(folder), modules)};
  add_saved_modules(folder, modules);
  alone.adapter = load_adapter(*alone.base, folder, "", "");
  return alone;
}

StandaloneAdapter load_foreign_standalone_adapter(const std::filesystem::path& folder, const ForeignOptions& options) {
  StandaloneAdapter alone;
  if (!std::filesystem::exists(folder / "adapter_config.json")) {
    MOELORA_CHECK(!is_adapter_folder(folder), folder.string(),
                  ": this is an adapter of this library, which needs no import");
    const auto checkpoint = read_prefix_checkpoint(folder);
    MOELORA_CHECK(checkpoint, folder.string(), ": expected an adapter of PEFT (LORA) or MOELoRA-peft ",
                  "(adapter_config.json, adapter_model.*) or a P-Tuning v2 checkpoint (weights with prefix_encoder), ",
                  "found neither");
    MOELORA_CHECK(options.task_names.size() <= 1 && !options.per_linear, folder.string(),
                  ": a P-Tuning v2 prefix has one task and no gates, found ", options.task_names.size(), " task names");
    check_family(folder / "config.json");
    alone.base = std::make_shared<WeightlessBase>(checkpoint->shape);
    alone.adapter = load_prefix_checkpoint(*alone.base, *checkpoint, folder.string(),
                                           options.task_names.empty() ? "default" : options.task_names.front());
    return alone;
  }
  alone.adapter = load_foreign_adapter(
      [&](const std::vector<ForeignShape>& linears) -> torch::nn::Module& {
        alone.base = base_with(linears);
        return *alone.base;
      },
      folder, options);
  return alone;
}

}  // namespace moelora::cli
