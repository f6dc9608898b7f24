#pragma once
// Shared by the checks: a golden file that remembers what was compared, and the report under construction.

#include <ATen/core/Tensor.h>

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "moelora/model/family.h"
#include "moelora/verify/verify.h"

namespace moelora::verify {

class GoldenFile {
 public:
  GoldenFile(const std::filesystem::path& path, VerifyReport& report);
  ~GoldenFile() = default;

  bool contains(const std::string& name) const { return tensors_.contains(name); }
  const at::Tensor& peek(const std::string& name) const;  ///< For input; does not count as compared. Error if absent.
  std::vector<std::string> names() const;
  /// Compares whole tensors: max |expected - found| <= tolerance.
  void compare(const std::string& name, const at::Tensor& found, double tolerance);
  /// Compares where `mask` (bool, broadcastable from the leading axes) is true; the rest are pad rows.
  void compare_rows(const std::string& name, const at::Tensor& found, const at::Tensor& mask, double tolerance);
  /// Compares single values, those where `mask` is true; nothing if it is true nowhere. `what` is added to the name.
  void compare_masked(const std::string& name, const at::Tensor& found, const at::Tensor& mask, double tolerance,
                      const std::string& what = {});
  void compare_equal(const std::string& name, const at::Tensor& found);
  /// Compares with tolerance · max |expected|, as gradients are.
  void compare_relative(const std::string& name, const at::Tensor& found, double tolerance);
  void finish();  ///< Lists what was never compared.

 private:
  std::string label(const std::string& name) const { return file_ + ": " + name; }
  std::string file_;
  std::map<std::string, at::Tensor> tensors_;
  std::set<std::string> compared_;
  VerifyReport& report_;
};

/// Every comparison fails where either side holds NaN or infinity, where the tolerance does, and where there is nothing
/// to compare.
void compare_numbers(VerifyReport& report, const std::string& name, double expected, double found, double tolerance);
void compare_json(VerifyReport& report, const std::string& name, const nlohmann::ordered_json& expected,
                  const nlohmann::ordered_json& found);
void compare_tensors(VerifyReport& report, const std::string& name, const at::Tensor& expected, const at::Tensor& found,
                     double tolerance);

/// Sequences of a padded golden batch, as this library wants them.
struct GoldenBatch {
  at::Tensor ids;  ///< [rows] packed
  nn::Segments segments;
  std::vector<std::int64_t> begin;  ///< [S] column of each sequence's first real token
  std::int64_t columns = 0;         ///< padded length
  at::Tensor label_rows;            ///< [n]
  at::Tensor labels;                ///< [n]
  at::Tensor real;                  ///< bool [S, columns]

  /// Packed rows [rows, …] → [S, columns, …], zeros at pad places.
  at::Tensor pad(const at::Tensor& rows) const;
};

/// ids [S, columns]; labels [S, columns] or undefined (prompts).
GoldenBatch read_batch(const at::Tensor& ids, const at::Tensor& labels, const model::SpecialTokens& tokens,
                       const model::CausalLM& model);

/// The batches with labels that a golden file holds, SIDE.input_ids and SIDE.labels, by that name.
std::map<std::string, GoldenBatch> labelled_batches(const GoldenFile& golden, const model::SpecialTokens& tokens,
                                                    const model::CausalLM& model);

/// Greedy decoding of left-padded golden prompts: ids [S, columns + new] and logits [S, new, V] as the goldens have
/// them.
struct GreedyRun {
  at::Tensor ids;
  at::Tensor logits;
};
GreedyRun greedy_run(model::CausalLM& model, const at::Tensor& prompts, const model::SpecialTokens& tokens,
                     std::int64_t new_tokens, const nn::ContextMaker& context);

/// Mean loss over all labels of a batch, with logits of all rows [rows, V].
struct GraphRun {
  at::Tensor logits;
  at::Tensor loss;  ///< scalar, differentiable
};
GraphRun run_graph(model::CausalLM& model, const GoldenBatch& batch, const nn::RowContext& context);

/// Every block's input and, as the last, the output of the last norm: num_layers + 1 tensors [rows, hidden_size].
std::vector<at::Tensor> hidden_states(model::CausalLM& model, const GoldenBatch& batch, const nn::RowContext& context);

/// The files of a folder whose names are `before` + some text + `after`, by that text, in its order.
std::map<std::string, std::filesystem::path> files_like(const std::filesystem::path& folder, const std::string& before,
                                                        const std::string& after);
/// That text in one name; nothing if the name is of another form or the text is empty.
std::optional<std::string> text_between(const std::string& name, const std::string& before, const std::string& after);
/// The same as a number, as in params_after_5_adamw; nothing if it is none.
std::optional<std::int64_t> number_between(const std::string& name, const std::string& before,
                                           const std::string& after);

/// Tolerance of logits, hidden states and losses (fp32).
constexpr double kTolerance = 1e-4;

void verify_graph(const std::filesystem::path& folder, const VerifyOptions& options, VerifyReport& report);
/// Texts with their ids, and conversations as a chat template writes them; `where` names the list.
void compare_texts(const std::string& where, const model::Tokenizer& tokenizer, const nlohmann::ordered_json& pairs,
                   VerifyReport& report);
void compare_chats(const std::string& where, const model::Tokenizer& tokenizer, const nlohmann::ordered_json& chats,
                   VerifyReport& report);
/// Whether a model folder's goldens are whole sequences, or a folder's are texts of a model elsewhere; else padded
/// batches.
bool holds_sequences(const std::filesystem::path& folder);
bool holds_recorded_texts(const std::filesystem::path& folder);
void verify_sequences(const std::filesystem::path& folder, const VerifyOptions& options, VerifyReport& report);
void verify_recorded_texts(const std::filesystem::path& folder, const VerifyOptions& options, VerifyReport& report);
void verify_moelora(const std::filesystem::path& folder, const std::filesystem::path& base,
                    const VerifyOptions& options, VerifyReport& report);
void verify_lora(const std::filesystem::path& folder, const std::filesystem::path& base, const VerifyOptions& options,
                 VerifyReport& report);
void verify_prefix(const std::filesystem::path& folder, const std::filesystem::path& base, const VerifyOptions& options,
                   VerifyReport& report);
void verify_tokenizer(const std::filesystem::path& folder, VerifyReport& report);
void verify_tokenizer_golden(const std::filesystem::path& folder, VerifyReport& report);  ///< tokenizer_golden.json
void verify_metrics(const std::filesystem::path& folder, VerifyReport& report);

}  // namespace moelora::verify
