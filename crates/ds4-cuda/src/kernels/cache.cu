// A batch's entries in its sequences' caches, before and after attention.
#include "cache.cuh"

/// grid: (rows, roles): the batch's KV rows; compressed rows; indexer rows. 256 threads.
DS4_KERNEL(cache_append, 256, 2, CacheParams) {
    __shared__ float scratch[8];
    append_row(p, blockIdx.x, blockIdx.y, ptr<const RowInfo>(p.rows)[blockIdx.x], scratch);
}

/// After attention. grid: (rows, roles): rows into the window ring; frontiers, by each span's last row. 256 threads.
DS4_KERNEL(cache_commit, 256, 2, CacheParams) {
    commit_row(p, blockIdx.x, blockIdx.y, ptr<const RowInfo>(p.rows)[blockIdx.x]);
}
