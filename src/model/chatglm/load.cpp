#include "moelora/model/chatglm/load.h"

#include "moelora/io/error.h"
#include "moelora/model/chatglm/family.h"

namespace moelora::model {

ChatGlm load_chatglm(const std::filesystem::path& folder, const LoadOptions& options) {
  LoadOptions graph_alone = options;
  graph_alone.tokenizer = false;
  const LoadedModel loaded = load(folder, graph_alone);
  auto graph = std::dynamic_pointer_cast<ChatGlmImpl>(loaded.model);
  MOELORA_CHECK(graph != nullptr, folder.string(), " holds a model of ", loaded.family->title().name,
                ", expected ChatGLM-6B's; read it with model::load");
  return ChatGlm(std::move(graph));
}

void save_chatglm(const ChatGlmImpl& model, const std::filesystem::path& folder, const SaveOptions& options) {
  save_model(model, *as_model_config(model.config()), folder, options);
}

}  // namespace moelora::model
