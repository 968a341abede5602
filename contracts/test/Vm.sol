// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @dev The cheat codes that these tests use.
interface Vm {
    function prank(address sender) external;
    function deal(address account, uint256 balance) external;
    function warp(uint256 timestamp) external;
    function expectRevert(bytes calldata reason) external;
    function expectRevert() external;
    function assume(bool condition) external;
}

Vm constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

/// @dev Two-leaf trees and heads, computed apart from the contract.
library Trees {
    function rewardLeaf(bytes32 id, address account, uint256 cumulative) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(id, account, cumulative))));
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
