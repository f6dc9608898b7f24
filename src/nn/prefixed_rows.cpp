#include "nn/prefixed_rows.h"

#include <ATen/ATen.h>

#include "nn/move_together.h"

namespace moelora::nn {

PrefixedRows::PrefixedRows(const Segments& segments, std::int64_t length, const at::Device& device) : length_(length) {
  std::vector<std::int64_t> own, front;
  Segments& all = context_.segments;
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    const auto begin = all.rows();
    for (std::int64_t row = 0; row < length; ++row) {
      front.push_back(begin + row);
    }
    for (std::int64_t row = 0; row < segments.length(i); ++row) {
      own.push_back(begin + length + row);
    }
    all.offsets.push_back(begin + length + segments.length(i));
    all.bidirectional.push_back(length + segments.bidirectional[static_cast<std::size_t>(i)]);
  }
  own_ = at::tensor(own, at::kLong);
  front_ = at::tensor(front, at::kLong);
  if (!device.is_cpu()) {
    auto attention = std::make_shared<AttentionTables>(AttentionTables::of(all));
    std::vector<at::Tensor*> tables = attention->tensors();
    tables.insert(tables.end(), {&own_, &front_});
    move_together(tables, device);
    context_.attention = std::move(attention);
  }
}

at::Tensor PrefixedRows::queries(const at::Tensor& output_rows) const {
  return output_rows.defined() ? own_.index_select(0, output_rows) : own_;
}

at::Tensor PrefixedRows::extend(const at::Tensor& x, const at::Tensor& front) const {
  at::Tensor all = at::zeros({context_.segments.rows(), x.size(1), x.size(2)}, x.options());
  all.index_copy_(0, own_, x);
  if (front.defined()) {
    const auto count = context_.segments.count();
    const at::Tensor each = front.dim() == 4 ? front : front.unsqueeze(0).expand({count, -1, -1, -1});
    all.index_copy_(0, front_, each.reshape({-1, x.size(1), x.size(2)}).to(x.scalar_type()));
  }
  return all;
}

at::Tensor PrefixedRows::front_rows(const at::Tensor& all, const at::Tensor& like) const {
  const at::Tensor each =
      all.index_select(0, front_).view({context_.segments.count(), length_, all.size(1), all.size(2)});
  return (like.dim() == 4 ? each : each.sum(0)).to(like.scalar_type());
}

}  // namespace moelora::nn
