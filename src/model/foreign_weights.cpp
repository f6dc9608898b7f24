#include "model/foreign_weights.h"

#include <algorithm>
#include <iterator>
#include <vector>

#include "moelora/io/error.h"
#include "moelora/io/saved_names.h"

namespace moelora::model {
namespace {

bool is_of_lora(const std::string& name) {
  return name.find(".lora_") != name.npos || name.find(".base_layer.") != name.npos;
}

std::vector<std::string> names_that(const io::TensorFolder& weights, bool (*holds)(const std::string&)) {
  std::vector<std::string> names;
  std::copy_if(weights.names().begin(), weights.names().end(), std::back_inserter(names), holds);
  return names;
}

}  // namespace

bool is_of_prefix(const std::string& name) {
  return name.starts_with("prefix_encoder.") || name.find(".prefix_encoder.") != name.npos;
}

void check_is_no_prefix(const io::TensorFolder& weights) {
  const std::string folder = weights.folder().string();
  const std::vector<std::string> prefix = names_that(weights, is_of_prefix);
  MOELORA_CHECK(prefix.size() < weights.names().size(), folder, " holds a P-Tuning v2 prefix alone (",
                io::in_a_row(prefix), "), not a model; `moelora import --adapter ", folder,
                " --output ADAPTER` makes an adapter of it, which goes with the base that it was trained on");
}

void check_is_base(const io::TensorFolder& weights, const Family& family) {
  check_is_no_prefix(weights);
  const std::string folder = weights.folder().string();
  const std::string other = family.other_model_of_names(weights.names());
  const FamilyTitle title = family.title();
  MOELORA_CHECK(other.empty(), folder, " holds the weights of ", other, " (", weights.names().front(),
                ", …), whose graph is another one; expected ", title.name, "'s",
                title.edition.empty() ? "" : " (" + title.edition + ")");
  const std::vector<std::string> lora = names_that(weights, is_of_lora);
  MOELORA_CHECK(lora.empty(), folder, " holds ", lora.size(), " tensors of a LoRA that is not merged (",
                io::in_a_row(lora, 2), "); save the adapter alone (save_pretrained of PEFT's model) and import it, or ",
                "merge it into the base (merge_and_unload) before saving");
}

}  // namespace moelora::model
