// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {HyperGPULedger} from "../src/HyperGPULedger.sol";

/// @dev The cheat codes that these tests use.
interface Vm {
    function prank(address sender) external;
    function deal(address account, uint256 balance) external;
    function warp(uint256 timestamp) external;
    function expectRevert(bytes calldata reason) external;
    function assume(bool condition) external;
}

Vm constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

/// @dev Reward trees, two-leaf contribution trees and heads, computed apart from the contract.
library Trees {
    /// @dev Root and total of the reward tree of these accounts, which differ; `depth` bits of them are the same.
    function rewardTree(bytes32 id, address[] memory accounts, uint96[] memory amounts, uint256 depth)
        internal
        pure
        returns (bytes32 hash, uint96 sum)
    {
        if (accounts.length == 0) return (0, 0);
        if (accounts.length == 1) return (rewardLeaf(id, accounts[0], amounts[0]), amounts[0]);
        HyperGPULedger.Sibling[2] memory child;
        for (uint256 bit = 0; bit < 2; ++bit) {
            (address[] memory below, uint96[] memory theirs) = side(accounts, amounts, depth, bit);
            (child[bit].hash, child[bit].sum) = rewardTree(id, below, theirs, depth + 1);
        }
        return (join(child[0].hash, child[0].sum, child[1].hash, child[1].sum), child[0].sum + child[1].sum);
    }

    /// @dev Proof of an account of the tree.
    function grant(bytes32 id, uint64 round, address account, address[] memory accounts, uint96[] memory amounts)
        internal
        pure
        returns (HyperGPULedger.Grant memory made)
    {
        HyperGPULedger.Sibling[] memory way = new HyperGPULedger.Sibling[](160);
        uint256 depth;
        for (; accounts.length > 1; ++depth) {
            uint256 bit = (uint160(account) >> depth) & 1;
            (address[] memory others, uint96[] memory theirs) = side(accounts, amounts, depth, 1 - bit);
            (way[depth].hash, way[depth].sum) = rewardTree(id, others, theirs, depth + 1);
            (accounts, amounts) = side(accounts, amounts, depth, bit);
        }
        made = HyperGPULedger.Grant(round, amounts[0], new HyperGPULedger.Sibling[](depth));
        for (uint256 i = 0; i < depth; ++i) {
            made.proof[i] = way[depth - 1 - i];
        }
    }

    function side(address[] memory accounts, uint96[] memory amounts, uint256 depth, uint256 bit)
        internal
        pure
        returns (address[] memory below, uint96[] memory theirs)
    {
        uint256 count;
        for (uint256 i = 0; i < accounts.length; ++i) {
            if ((uint160(accounts[i]) >> depth) & 1 == bit) ++count;
        }
        (below, theirs) = (new address[](count), new uint96[](count));
        for (uint256 i = accounts.length; i > 0; --i) {
            if ((uint160(accounts[i - 1]) >> depth) & 1 != bit) continue;
            --count;
            (below[count], theirs[count]) = (accounts[i - 1], amounts[i - 1]);
        }
    }

    function join(bytes32 left, uint96 leftSum, bytes32 right, uint96 rightSum) internal pure returns (bytes32) {
        return keccak256(abi.encode(left, leftSum, right, rightSum));
    }

    function rewardLeaf(bytes32 id, address account, uint96 amount) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(id, account, amount))));
    }

    function parent(bytes32 a, bytes32 b) internal pure returns (bytes32) {
        return a < b ? keccak256(abi.encode(a, b)) : keccak256(abi.encode(b, a));
    }

    function head(bytes32 before, uint64 round, bytes32 root, bytes32 model, bytes32 rewards, uint128 owed)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(before, round, root, model, rewards, owed));
    }

    function proof(bytes32 sibling) internal pure returns (bytes32[] memory path) {
        path = new bytes32[](1);
        path[0] = sibling;
    }
}
