#include "moelora/model/weights.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <map>

#include "model/foreign_weights.h"
#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/io/fingerprint.h"
#include "moelora/io/huge_pages.h"
#include "moelora/io/saved_names.h"

namespace moelora::model {
namespace {

bool is_float(at::ScalarType dtype) { return dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16; }

std::string shape_text(at::IntArrayRef shape) { return detail::concat(shape); }

}  // namespace

TensorSource random_tensors(std::uint64_t seed, at::ScalarType dtype) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return [generator, dtype](const std::string& name, at::IntArrayRef shape) mutable {
    if (name.ends_with(".bias")) {
      return at::zeros(shape, dtype);
    }
    if (shape.size() == 1) {
      return at::ones(shape, dtype);
    }
    return io::empty_on_huge_pages(shape, at::kFloat).normal_(0.0, 0.02, generator).to(dtype);
  };
}

TensorSource weightless_tensors(at::ScalarType dtype) {
  return [zero = at::zeros({1}, dtype)](const std::string&, at::IntArrayRef shape) { return zero.expand(shape); };
}

TensorSource with_tied_head(TensorSource source, TiedHead names) {
  return [source = std::move(source), names = std::move(names), tied = at::Tensor()](const std::string& name,
                                                                                     at::IntArrayRef shape) mutable {
    if (name != names.embedding && name != names.head) {
      return source(name, shape);
    }
    if (!tied.defined()) {
      tied = source(names.embedding, shape);
    }
    return tied;
  };
}

std::int64_t ExpectedTensors::parameter_count(bool tied) const {
  std::int64_t count = 0;
  for (const auto& [name, shape] : tensors) {
    if (!(tied && tied_head && name == tied_head->head)) {
      count += c10::multiply_integers(shape);
    }
  }
  return count;
}

std::string tensor_problems(const io::TensorFolder& found, const ExpectedTensors& expected) {
  std::vector<std::string> missing;
  std::vector<std::string> missing_names;
  std::vector<std::string> unexpected;
  std::vector<std::string> misfits;
  std::map<std::string, std::vector<std::int64_t>> shapes;
  for (const auto& [name, shape] : expected.tensors) {
    const bool may_be_left_out = expected.tied_head && name == expected.tied_head->head;
    if (!found.contains(name) && !may_be_left_out) {
      missing.push_back(name + " " + shape_text(shape));
      missing_names.push_back(name);
    }
    shapes.emplace(name, shape);
  }
  std::vector<std::string> prefix;
  for (const std::string& name : found.names()) {
    const auto wanted = shapes.find(name);
    const io::TensorInfo& info = found.info(name);
    if (wanted == shapes.end()) {
      if (is_of_prefix(name)) {
        prefix.push_back(name);
      } else if (!name.ends_with("rotary_emb.inv_freq")) {  // the reference ignores these on load
        unexpected.push_back(name);
      }
    } else if (info.shape != wanted->second) {
      misfits.push_back("shape of " + name + ": expected " + shape_text(wanted->second) + ", found " +
                        shape_text(info.shape));
    } else if (!is_float(info.dtype)) {
      misfits.push_back("type of " + name + ": expected float32, float16 or bfloat16, found " +
                        io::dtype_name(info.dtype));
    }
  }
  std::string text = io::lines_of("missing", missing) + io::lines_of("unexpected", unexpected);
  if (!missing.empty() && !unexpected.empty()) {
    text += "\nnearest names:" + io::expected_beside_found(missing_names, unexpected);
  }
  text += io::lines_of("differs", misfits);
  if (!prefix.empty()) {
    // Not dropped in silence: whoever trained them would get other answers than before.
    text += "\n  left over from P-Tuning v2: " + io::in_a_row(prefix) + "; remove these tensors from " + found.form() +
            ", or take the base's own file; `moelora import --adapter " + found.folder().string() +
            " --output ADAPTER` makes an adapter of them";
  }
  return text;
}

io::NamedTensors base_tensors(const CausalLM& model) {
  io::NamedTensors tensors;
  for (const auto& parameter : model.named_parameters()) {
    tensors.emplace_back(parameter.key(), parameter.value().detach());
  }
  return tensors;
}

std::vector<std::string> tied_names(const CausalLM& model) {
  std::vector<std::string> names;
  std::vector<const at::TensorImpl*> seen;
  for (const auto& parameter : model.named_parameters()) {
    const at::TensorImpl* tensor = parameter.value().unsafeGetTensorImpl();
    if (std::find(seen.begin(), seen.end(), tensor) == seen.end()) {
      seen.push_back(tensor);
    } else {
      names.push_back(parameter.key());
    }
  }
  return names;
}

std::string base_fingerprint(const CausalLM& model) { return io::fingerprint(base_tensors(model)); }

}  // namespace moelora::model
