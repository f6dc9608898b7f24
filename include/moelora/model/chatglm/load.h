#pragma once
// Model folders of ChatGLM-6B for programs that work with the graph's own modules; others use model/registry.h.

#include <filesystem>

#include "moelora/model/chatglm/chatglm.h"
#include "moelora/model/registry.h"

namespace moelora::model {

/// The graph of model::load. Error: the folder holds a model of another family. The tokenizer is left aside.
ChatGlm load_chatglm(const std::filesystem::path& folder, const LoadOptions& options = {});

/// save_model of such a graph.
void save_chatglm(const ChatGlmImpl& model, const std::filesystem::path& folder, const SaveOptions& options = {});

}  // namespace moelora::model
