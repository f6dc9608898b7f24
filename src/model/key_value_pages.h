#pragma once
// Keys and values of a batch of sequences in pages on a device: the host keeps the books, the device has the table of
// pages and the number of rows that each sequence has stored. A sequence that grows gets more pages, and nothing moves;
// the pages of one that leaves are given to others.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "moelora/model/model_shape.h"
#include "moelora/nn/row_context.h"
#include "nn/kernels/cuda/decode_attention.h"

namespace moelora::model {

class KeyValuePages {
 public:
  /// Whether `device` has kernels for them, and these take this shape and type.
  static bool serve(const ModelShape& shape, at::ScalarType dtype, const at::Device& device);

  KeyValuePages(const ModelShape& shape, at::ScalarType dtype, const at::Device& device);

  /// Pages for the prompts of these segments, behind `prefix_rows` rows each, and for some rows more.
  void begin(const nn::Segments& segments, std::int64_t prefix_rows);
  bool begun() const { return table_.defined(); }
  /// Where store_rows puts the prompts' rows and those of the prefixes, all sequences' in order.
  const at::Tensor& prompt_places() const { return prompt_places_; }
  const at::Tensor& prefix_places() const { return prefix_places_; }

  /// Pages for one row more of each sequence; where there are none, they come for many rows, in one upload. Outside of
  /// what a graph records.
  void reserve_next();
  /// Each sequence has stored one row more. Where a recorded graph counts on the device, only the host's books change.
  void count_row(bool on_device);
  /// Keeps only these sequences, in this order; the others' pages are free. One upload.
  void keep(const std::vector<std::int64_t>& sequences);

  nn::kernels::PagedKeysValues layer(std::int64_t layer) const;
  const at::Tensor& counts() const { return counts_; }  ///< [sequences] int32 on the device: rows stored
  std::int64_t most() const;                            ///< the largest of them, as the host knows it
  std::int64_t capacity() const;                        ///< rows that each sequence has pages for at least

 private:
  struct Sequence {
    std::vector<std::int64_t> pages;  // addresses
    std::int64_t rows = 0;
  };
  void reserve(std::int64_t more);
  void upload();

  ModelShape shape_;
  at::ScalarType dtype_;
  at::Device device_;
  std::int64_t most_pages_ = 0;  // of a sequence
  std::vector<Sequence> sequences_;
  std::vector<at::Tensor> slabs_;   // of pages
  std::vector<std::int64_t> free_;  // addresses of pages
  at::Tensor buffer_;               // table_ and counts_: always at the same place, as recorded graphs need it
  at::Tensor table_;                // [sequences, most_pages_] int64
  at::Tensor counts_;
  at::Tensor prompt_places_, prefix_places_;
};

}  // namespace moelora::model
