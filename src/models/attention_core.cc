#include "models/attention_core.h"

#include <utility>
#include <vector>

namespace wideep::models {
namespace {

kernels::AttentionParams kernel_params(const ForwardPass& pass, const kernels::KvCacheView& cache,
                                       const AttendParams& params) {
  kernels::AttentionParams result;
  result.q = params.q;
  result.num_heads = params.num_heads;
  result.cache = cache;
  result.sequences = pass.sequences;
  result.tables = pass.attention_tables;
  result.scale = params.scale;
  result.chunk_size = params.chunk_size;
  result.out = params.out;
  return result;
}

// Rows of all ranks of the cp group, in order. `own` has adjacent rows.
Result<ConstMatrixView> gather_rows(const ForwardPass& pass, ConstMatrixView own) {
  const MatrixView all = pass.matrix(pass.num_rows, own.columns);
  std::vector<int64_t> sizes;
  for (const int64_t rows : pass.cp_rows) {
    sizes.push_back(rows * own.columns * dtype_size(own.dtype));
  }
  RETURN_IF_ERROR(pass.cp->all_gather_v(dist::bytes_of(own), sizes, dist::writable_bytes_of(all)));
  return ConstMatrixView(all);
}

// Sends every rank of the cp group its rows of `all` and returns what came: the own rows as each
// rank computed them, [cp] of [own rows, columns].
Result<std::vector<ConstMatrixView>> exchange_rows(const ForwardPass& pass, ConstMatrixView all) {
  const int64_t row_bytes = all.columns * dtype_size(all.dtype);
  const MatrixView received =
      pass.arena->matrix(int64_t{pass.own_rows()} * pass.cp->size(), all.columns, all.dtype);
  std::vector<int64_t> send_sizes;
  const std::vector<int64_t> receive_sizes(static_cast<size_t>(pass.cp->size()),
                                           pass.own_rows() * row_bytes);
  for (const int64_t rows : pass.cp_rows) send_sizes.push_back(rows * row_bytes);
  RETURN_IF_ERROR(pass.cp->all_to_all_v(dist::bytes_of(all), send_sizes,
                                        dist::writable_bytes_of(received), receive_sizes));
  std::vector<ConstMatrixView> parts;
  for (int rank = 0; rank < pass.cp->size(); ++rank) {
    parts.push_back(received.row_range(int64_t{rank} * pass.own_rows(), pass.own_rows()));
  }
  return parts;
}

Status attend_with_cp(const ForwardPass& pass, const kernels::KvCacheView& cache,
                      const AttendParams& params) {
  const Arena::Scope scope(*pass.arena);
  ASSIGN_OR_RETURN(const ConstMatrixView q, gather_rows(pass, params.q));
  ASSIGN_OR_RETURN(const ConstMatrixView kv, gather_rows(pass, params.kv));
  kernels::kv_append(*pass.stream, kv, pass.slots, cache);

  kernels::AttentionParams attention = kernel_params(pass, cache, params);
  attention.q = q;
  attention.cp_size = pass.cp->size();
  attention.cp_rank = pass.cp->rank();
  const MatrixView out = pass.matrix(pass.num_rows, int64_t{params.num_heads} * cache.v_dim);
  const MatrixView lse = pass.arena->matrix(pass.num_rows, params.num_heads);
  attention.out = out;
  attention.lse = lse.row<float>(0);
  kernels::attention(*pass.stream, attention);

  ASSIGN_OR_RETURN(const std::vector<ConstMatrixView> outs, exchange_rows(pass, out));
  ASSIGN_OR_RETURN(const std::vector<ConstMatrixView> lses, exchange_rows(pass, lse));
  std::vector<const float*> part_lses;
  for (const ConstMatrixView& part : lses) part_lses.push_back(part.row<float>(0));
  kernels::merge_attention(*pass.stream, {outs, part_lses, params.num_heads, params.out});
  return Status::ok();
}

}  // namespace

Status attend(const ForwardPass& pass, const kernels::KvCacheView& cache,
              const AttendParams& params) {
  if (pass.cp != nullptr) return attend_with_cp(pass, cache, params);
  kernels::kv_append(*pass.stream, params.kv, pass.slots, cache);
  kernels::attention(*pass.stream, kernel_params(pass, cache, params));
  return Status::ok();
}

int64_t attend_scratch_bytes(const kernels::KvCacheView& cache, int num_heads, int max_rows,
                             int cp) {
  if (cp == 1) return 0;
  const int64_t out_columns = int64_t{num_heads} * (cache.v_dim + 1);
  // Own rows of every rank of the group: one row more than an even share at most.
  const int64_t own_rows = max_rows / cp + 1;
  return Arena::matrix_bytes(max_rows, int64_t{num_heads} * cache.k_dim) +
         Arena::matrix_bytes(max_rows, cache.token_elements()) +
         Arena::matrix_bytes(max_rows, out_columns) +
         Arena::matrix_bytes(own_rows * cp, out_columns) + 8 * Arena::kAlignment;
}

}  // namespace wideep::models
