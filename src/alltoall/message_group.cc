// Rows travel over the communicator, each once to a rank that has any of its slots, with the slots
// and weights beside it; sums come back.
#include <cstring>
#include <utility>
#include <vector>

#include "alltoall/host_group.h"
#include "alltoall/row_sums.h"
#include "kernels/parallel.h"

namespace wideep::alltoall {
namespace {

class MessageGroup : public HostGroup {
 public:
  MessageGroup(dist::Communicator& group, const GroupShape& shape)
      : HostGroup(group, shape),
        width_(shape.hidden_size + 2 * int64_t{shape.top_k}),
        sent_(static_cast<size_t>(group.size())),
        num_sent_(static_cast<size_t>(group.size())),
        num_received_(static_cast<size_t>(group.size())),
        send_bytes_(static_cast<size_t>(group.size())),
        receive_bytes_(static_cast<size_t>(group.size())) {}

  Status plan(Stream& stream, const Routing& routing) override;
  Result<Received> dispatch(Stream& stream, ConstMatrixView x) override;
  Status combine(Stream& stream, MatrixView y) override;

  using HostGroup::allocate;

 private:
  // A message is x [hidden_size], then for each k the weight and the slot, -1 for other ranks'.
  const float* weights_of(const float* message) const { return message + shape_.hidden_size; }
  int32_t slot_of(const float* message, int k) const {
    int32_t slot;
    std::memcpy(&slot, message + shape_.hidden_size + shape_.top_k + k, sizeof slot);
    return slot;
  }

  void write_message(int rank, const float* x, int64_t token, float* to) const;
  void unpack();
  // num[r] pieces of `floats` each, as bytes to or from every rank.
  static void set_bytes(std::span<const int64_t> num, int64_t floats, std::span<int64_t> bytes);
  Status exchange(std::span<const float> out, std::span<float> in);
  bool is_exact() const { return shape_.combine == CombineMode::kExact; }
  Status return_reduced(Stream& stream);
  Status return_exact();
  void sum_reduced(Stream& stream, MatrixView y);
  void sum_exact(Stream& stream, MatrixView y);

  const int64_t width_;                 // floats of a message
  std::vector<std::vector<int>> sent_;  // [size] tokens that go to each rank, ascending
  std::vector<int64_t> num_sent_;       // [size]
  std::vector<int64_t> num_received_;   // [size]
  std::vector<int> rows_of_received_;   // [received, top_k] row here, -1 for other ranks' slots
  std::vector<float> send_buffer_;
  std::vector<float> messages_;  // received
  std::vector<float> returns_;   // what came back
  std::vector<int64_t> send_bytes_;
  std::vector<int64_t> receive_bytes_;
};

Status MessageGroup::plan(Stream& stream, const Routing& routing) {
  RETURN_IF_ERROR(HostGroup::plan(stream, routing));
  for (std::vector<int>& tokens : sent_) tokens.clear();
  for (int64_t pair = 0; pair < std::ssize(routing.slots); ++pair) {
    const int slot = routing.slots[pair];
    if (slot < 0) continue;
    std::vector<int>& tokens = sent_[layout_.rank_of(slot)];
    const auto token = static_cast<int>(pair / shape_.top_k);
    if (tokens.empty() || tokens.back() != token) tokens.push_back(token);
  }
  for (int r = 0; r < size(); ++r) num_sent_[r] = std::ssize(sent_[r]);
  const std::vector<int64_t> eight(static_cast<size_t>(size()), sizeof(int64_t));
  return group_.all_to_all_v(std::as_bytes(std::span(num_sent_)), eight,
                             std::as_writable_bytes(std::span(num_received_)), eight);
}

void MessageGroup::set_bytes(std::span<const int64_t> num, int64_t floats,
                             std::span<int64_t> bytes) {
  for (size_t r = 0; r < num.size(); ++r) {
    bytes[r] = num[r] * floats * static_cast<int64_t>(sizeof(float));
  }
}

Status MessageGroup::exchange(std::span<const float> out, std::span<float> in) {
  return group_.all_to_all_v(std::as_bytes(out), send_bytes_, std::as_writable_bytes(in),
                             receive_bytes_);
}

void MessageGroup::write_message(int rank, const float* x, int64_t token, float* to) const {
  std::copy_n(x, shape_.hidden_size, to);
  std::copy_n(routing().weights + token * shape_.top_k, shape_.top_k, to + shape_.hidden_size);
  for (int k = 0; k < shape_.top_k; ++k) {
    int32_t slot = routing().slots[token * shape_.top_k + k];
    if (slot >= 0 && layout_.rank_of(slot) != rank) slot = -1;
    std::memcpy(to + shape_.hidden_size + shape_.top_k + k, &slot, sizeof slot);
  }
}

Result<Received> MessageGroup::dispatch(Stream&, ConstMatrixView x) {
  CHECK(x.dtype == DType::kF32 && x.rows == routing().num_tokens);
  CHECK_EQ(x.columns, shape_.hidden_size);
  int64_t num_sent = 0, num_received = 0;
  for (int r = 0; r < size(); ++r) {
    num_sent += num_sent_[r];
    num_received += num_received_[r];
  }
  send_buffer_.resize(static_cast<size_t>(num_sent * width_));
  float* to = send_buffer_.data();
  for (int r = 0; r < size(); ++r) {
    for (const int token : sent_[r]) {
      write_message(r, x.row<float>(token), token, to);
      to += width_;
    }
  }
  messages_.resize(static_cast<size_t>(num_received * width_));
  set_bytes(num_sent_, width_, send_bytes_);
  set_bytes(num_received_, width_, receive_bytes_);
  RETURN_IF_ERROR(exchange(send_buffer_, messages_));
  unpack();
  return received();
}

void MessageGroup::unpack() {
  const MatrixView to = rows();
  const int slots = layout_.slots_per_rank();
  rows_of_received_.assign(messages_.size() / width_ * shape_.top_k, -1);
  std::vector<int> next(static_cast<size_t>(slots));
  int64_t message_index = 0;
  for (int source = 0; source < size(); ++source) {
    for (int s = 0; s < slots; ++s) next[s] = layout_.first_row(source, s);
    for (int64_t i = 0; i < num_received_[source]; ++i, ++message_index) {
      const float* message = messages_.data() + message_index * width_;
      for (int k = 0; k < shape_.top_k; ++k) {
        const int slot = slot_of(message, k);
        if (slot < 0) continue;
        const int row = next[slot - rank() * slots]++;
        deliver_row(shape_, message, weights_of(message)[k], to.row<float>(row));
        rows_of_received_[message_index * shape_.top_k + k] = row;
      }
    }
  }
}

Status MessageGroup::return_reduced(Stream& stream) {
  const MatrixView from = outputs();
  const int64_t num_messages = std::ssize(messages_) / width_;
  send_buffer_.resize(static_cast<size_t>(num_messages * shape_.hidden_size));
  const double nanoseconds = 0.3 * shape_.hidden_size * shape_.top_k;
  kernels::parallel_ranges(stream, num_messages, nanoseconds, [&](int64_t begin, int64_t end) {
    std::vector<WeightedRow> token;
    for (int64_t i = begin; i < end; ++i) {
      const float* weights = weights_of(messages_.data() + i * width_);
      token.clear();
      for (int k = 0; k < shape_.top_k; ++k) {
        const int row = rows_of_received_[i * shape_.top_k + k];
        if (row < 0) continue;
        token.push_back({from.row<float>(row), shape_.weight_scales_input ? 1.0F : weights[k], 0});
      }
      sum_rows(token, {send_buffer_.data() + i * shape_.hidden_size,
                       static_cast<size_t>(shape_.hidden_size)});
    }
  });
  set_bytes(num_received_, shape_.hidden_size, send_bytes_);
  set_bytes(num_sent_, shape_.hidden_size, receive_bytes_);
  int64_t num_sent = 0;
  for (const int64_t num : num_sent_) num_sent += num;
  returns_.resize(static_cast<size_t>(num_sent * shape_.hidden_size));
  return exchange(send_buffer_, returns_);
}

Status MessageGroup::return_exact() {
  const MatrixView from = outputs();
  send_buffer_.resize(static_cast<size_t>(layout_.num_rows()) * shape_.hidden_size);
  std::vector<int64_t> num_rows(static_cast<size_t>(size()));     // to each rank
  std::vector<int64_t> num_returns(static_cast<size_t>(size()));  // from each rank
  float* to = send_buffer_.data();
  int64_t message_index = 0;
  for (int source = 0; source < size(); ++source) {
    for (int64_t i = 0; i < num_received_[source] * shape_.top_k; ++i, ++message_index) {
      const int row = rows_of_received_[message_index];
      if (row < 0) continue;
      to = std::copy_n(from.row<float>(row), shape_.hidden_size, to);
      ++num_rows[source];
    }
  }
  for (const int32_t slot : routing().slots) {
    if (slot >= 0) ++num_returns[layout_.rank_of(slot)];
  }
  set_bytes(num_rows, shape_.hidden_size, send_bytes_);
  set_bytes(num_returns, shape_.hidden_size, receive_bytes_);
  int64_t total = 0;
  for (const int64_t num : num_returns) total += num;
  returns_.resize(static_cast<size_t>(total * shape_.hidden_size));
  return exchange(send_buffer_, returns_);
}

void MessageGroup::sum_reduced(Stream&, MatrixView y) {
  for (int64_t t = 0; t < y.rows; ++t) std::fill_n(y.row<float>(t), y.columns, 0.0F);
  const float* from = returns_.data();
  for (int r = 0; r < size(); ++r) {
    for (const int token : sent_[r]) {
      float* to = y.row<float>(token);
      for (int i = 0; i < shape_.hidden_size; ++i) to[i] += from[i];
      from += shape_.hidden_size;
    }
  }
}

void MessageGroup::sum_exact(Stream& stream, MatrixView y) {
  // Rows of a rank come in the order of (token, k).
  std::vector<const float*> next(static_cast<size_t>(size()));
  const float* from = returns_.data();
  for (int r = 0; r < size(); ++r) {
    next[r] = from;
    from += receive_bytes_[r] / static_cast<int64_t>(sizeof(float));
  }
  std::vector<const float*> rows(routing().slots.size(), nullptr);
  for (size_t pair = 0; pair < rows.size(); ++pair) {
    const int slot = routing().slots[pair];
    if (slot < 0) continue;
    rows[pair] = next[layout_.rank_of(slot)];
    next[layout_.rank_of(slot)] += shape_.hidden_size;
  }
  const double nanoseconds = 0.3 * shape_.hidden_size * shape_.top_k;
  kernels::parallel_ranges(stream, y.rows, nanoseconds, [&](int64_t begin, int64_t end) {
    std::vector<WeightedRow> token;
    for (int64_t t = begin; t < end; ++t) {
      token.clear();
      for (int64_t pair = t * shape_.top_k; pair < (t + 1) * shape_.top_k; ++pair) {
        if (rows[pair] != nullptr) token.push_back({rows[pair], output_weight(pair), 0});
      }
      sum_rows(token, {y.row<float>(t), static_cast<size_t>(y.columns)});
    }
  });
}

Status MessageGroup::combine(Stream& stream, MatrixView y) {
  CHECK(y.dtype == DType::kF32 && y.rows == routing().num_tokens);
  CHECK_EQ(y.columns, shape_.hidden_size);
  if (is_exact()) {
    RETURN_IF_ERROR(return_exact());
    sum_exact(stream, y);
  } else {
    RETURN_IF_ERROR(return_reduced(stream));
    sum_reduced(stream, y);
  }
  return Status::ok();
}

}  // namespace

Result<std::unique_ptr<AllToAll>> make_message_group(dist::Communicator& group,
                                                     const GroupShape& shape) {
  auto made = std::make_unique<MessageGroup>(group, shape);
  RETURN_IF_ERROR(made->allocate());
  return Result<std::unique_ptr<AllToAll>>(std::move(made));
}

}  // namespace wideep::alltoall
