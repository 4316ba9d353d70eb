// Converts pooled values of half types and their 2x2 codes from NCHW to channels_last, because the tile products read
// neighbouring channels of a cell, which lie a plane apart in NCHW.
#pragma once

#include <cstdint>

#include "../unpool_conv2d.h"
#include "codes.cuh"
#include "element.cuh"
#include "launch.cuh"

namespace segext {

// The tile of cells and channels that a block transposes, as it lies in shared memory. The pitches put threads on
// different banks both when they store (neighbouring threads have neighbouring cells) and when they load words
// (neighbouring threads have neighbouring vectors).
template <typename Bits>
struct CellTile {
  static constexpr int kCells = 64, kChannels = 64;
  static constexpr int kLanes = Vector<Bits>::kLanes;  // channels per vector
  static constexpr int kElements = kCells * kChannels / Launch::kBlockThreads;
  static constexpr int kVectors = kElements / kLanes;  // vectors per thread
  static constexpr int kValuePitch = kChannels + 2, kCodePitch = kChannels + 4;
  Bits values[kCells][kValuePitch];
  uint8_t codes[kCells][kCodePitch];
  static_assert(sizeof(Bits) == 2, "half types");
  static_assert(kVectors * kLanes * Launch::kBlockThreads == kCells * kChannels, "each element once");
};

// How tiles are numbered: samples outermost, then tiles of channels, then tiles of cells.
struct CellTiles {
  Divisor<int32_t> by_cell_tiles, by_channel_tiles;
  int64_t channels, cells, sample_bytes;
};

template <typename Bits>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    pooled_to_channels_last_kernel(const Bits* __restrict__ values, const uint8_t* __restrict__ codes,
                                   Bits* __restrict__ converted_values, uint8_t* __restrict__ converted_codes,
                                   CellTiles tiles) {
  using Tile = CellTile<Bits>;
  auto& tile = *dynamic_shared_memory<Tile>();
  int32_t cell_tile, channel_tile;
  const int64_t sample = tiles.by_channel_tiles.divide(
      tiles.by_cell_tiles.divide(static_cast<int32_t>(blockIdx.x), &cell_tile), &channel_tile);
  const int64_t first_cell = cell_tile * int64_t{Tile::kCells}, first_channel = channel_tile * int64_t{Tile::kChannels};
  const int64_t sample_elements = tiles.channels * tiles.cells;
  values += sample * sample_elements;
  converted_values += sample * sample_elements;
  codes += sample * tiles.sample_bytes;
  converted_codes += sample * tiles.sample_bytes;
  constexpr int bits = kTileBits;
  const int thread = static_cast<int>(threadIdx.x);

#pragma unroll
  for (int k = 0; k < Tile::kElements; ++k) {
    const int cell = thread % Tile::kCells;
    const int channel = thread / Tile::kCells + k * (Launch::kBlockThreads / Tile::kCells);
    if (first_cell + cell >= tiles.cells || first_channel + channel >= tiles.channels) continue;
    const int64_t element = (first_channel + channel) * tiles.cells + first_cell + cell;
    tile.values[cell][channel] = values[element];
    tile.codes[cell][channel] = static_cast<uint8_t>(load_code(codes, as_unsigned(element), bits));
  }
  __syncthreads();

#pragma unroll
  for (int k = 0; k < Tile::kVectors; ++k) {
    constexpr int kCellVectors = Tile::kChannels / Tile::kLanes;
    const int item = thread + k * Launch::kBlockThreads;
    const int cell = item / kCellVectors, channel = item % kCellVectors * Tile::kLanes;
    if (first_cell + cell >= tiles.cells || first_channel + channel >= tiles.channels) continue;
    Vector<Bits> vector;
    uint64_t run = 0;
#pragma unroll
    for (int lane = 0; lane < Tile::kLanes; ++lane) {
      vector.lane[lane] = tile.values[cell][channel + lane];
      run |= place_code(tile.codes[cell][channel + lane], lane, bits);
    }
    const int64_t element = (first_cell + cell) * tiles.channels + first_channel + channel;
    store_vector(converted_values + element, vector);
    store_run(converted_codes, element / Tile::kLanes, Tile::kLanes * bits / 8, run);
  }
}

}  // namespace segext
