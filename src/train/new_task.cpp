#include "moelora/train/new_task.h"

#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/new_task.h"
#include "moelora/io/error.h"

namespace moelora::train {
namespace {

std::string listed_names(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) {
    text += (text.empty() ? "" : ", ") + name;
  }
  return text.empty() ? "none" : text;
}

}  // namespace

Adapter load_with_new_task(torch::nn::Module& base, const std::filesystem::path& folder,
                           const std::vector<data::Record>& records, const std::string& base_fingerprint,
                           const std::string& tokenizer_fingerprint, const std::string& name) {
  const TaskNames known = read_adapter_info(folder).tasks;
  const std::vector<std::string> found = data::task_names_of(records);
  MOELORA_CHECK(found.size() == 1 && !known.contains(found.front()),
                "expected training records of one task that the adapter in ", folder.string(),
                " does not have (it has ", listed_names(known.names()), "), found records of ", listed_names(found),
                "; choose the task with data.tasks");
  Adapter trained = load_adapter(base, folder, base_fingerprint, tokenizer_fingerprint, name);
  eject(trained);
  return with_new_task(base, *trained, found.front(), name);
}

}  // namespace moelora::train
